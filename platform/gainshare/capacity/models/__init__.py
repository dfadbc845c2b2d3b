"""The pool's tables: classes of devices, hosts, nodes and served models, decisions, and the requests that nodes answer."""

from gainshare.capacity.models.classes import DeviceClass
from gainshare.capacity.models.decisions import Decision, ScalingState
from gainshare.capacity.models.engine_hosts import EngineHost
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
from gainshare.capacity.models.served import ActuatorName, PolicyName, ServedModel

__all__ = [
    "LIVE",
    "ActuatorName",
    "AgentStart",
    "Arrivals",
    "CachedBlock",
    "Decision",
    "DeviceClass",
    "EngineHost",
    "Host",
    "Node",
    "NodeState",
    "NodeWindow",
    "OutputHistory",
    "PolicyName",
    "ScalingState",
    "Seat",
    "ServedModel",
    "WebProcess",
]
