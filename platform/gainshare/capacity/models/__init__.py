"""The pool's tables: classes of devices and their prices, hosts, nodes, loans and served models."""

from gainshare.capacity.models.classes import DeviceClass
from gainshare.capacity.models.hosts import Host
from gainshare.capacity.models.loans import LENT, UNRETURNED, DeviceLoan, LoanState
from gainshare.capacity.models.nodes import LIVE, Node, NodeState
from gainshare.capacity.models.prices import ClassPrice
from gainshare.capacity.models.served import PolicyName, ServedModel

__all__ = [
    "LENT",
    "LIVE",
    "UNRETURNED",
    "ClassPrice",
    "DeviceClass",
    "DeviceLoan",
    "Host",
    "LoanState",
    "Node",
    "NodeState",
    "PolicyName",
    "ServedModel",
]
