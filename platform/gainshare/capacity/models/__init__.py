"""The pool's tables: classes and prices, hosts, nodes, deployments, loans, served models, decisions, requests on nodes."""

from gainshare.capacity.models.classes import DeviceClass
from gainshare.capacity.models.decisions import Decision, ScalingState
from gainshare.capacity.models.deployments import HAS_SERVED, UNDER_WAY, Deployment, DeploymentState
from gainshare.capacity.models.engine_hosts import EngineHost
from gainshare.capacity.models.hosts import AgentStart, Host
from gainshare.capacity.models.loans import LENT, UNRETURNED, DeviceLoan, LoanState
from gainshare.capacity.models.nodes import LIVE, Node, NodeState
from gainshare.capacity.models.prices import ClassPrice
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
    "HAS_SERVED",
    "LENT",
    "LIVE",
    "UNDER_WAY",
    "UNRETURNED",
    "ActuatorName",
    "AgentStart",
    "Arrivals",
    "CachedBlock",
    "ClassPrice",
    "Decision",
    "Deployment",
    "DeploymentState",
    "DeviceClass",
    "DeviceLoan",
    "EngineHost",
    "Host",
    "LoanState",
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
