"""The pool's tables: classes of devices, hosts, nodes and served models, and the requests that nodes answer."""

from gainshare.capacity.models.classes import DeviceClass
from gainshare.capacity.models.hosts import AgentStart, Host
from gainshare.capacity.models.nodes import LIVE, Node, NodeState
from gainshare.capacity.models.routing import (
    Arrivals,
    CachedBlock,
    NodeWindow,
    OutputHistory,
    Seat,
    WebProcess,
)
from gainshare.capacity.models.served import PolicyName, ServedModel

__all__ = [
    "LIVE",
    "AgentStart",
    "Arrivals",
    "CachedBlock",
    "DeviceClass",
    "Host",
    "Node",
    "NodeState",
    "NodeWindow",
    "OutputHistory",
    "PolicyName",
    "Seat",
    "ServedModel",
    "WebProcess",
]
