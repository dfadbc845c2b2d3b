"""The pool's tables: classes of devices, hosts, nodes and served models."""

from gainshare.capacity.models.classes import DeviceClass
from gainshare.capacity.models.hosts import AgentStart, Host
from gainshare.capacity.models.nodes import LIVE, Node, NodeState
from gainshare.capacity.models.served import PolicyName, ServedModel

__all__ = ["LIVE", "AgentStart", "DeviceClass", "Host", "Node", "NodeState", "PolicyName", "ServedModel"]
