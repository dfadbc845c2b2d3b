"""Whether more nodes are wanted of a class: then none of its devices is lent."""

from __future__ import annotations

from gainshare.capacity.models import DeviceClass, Node, NodeState, ServedModel

SERVING = (NodeState.STARTING, NodeState.READY)


def is_wanted(device_class: DeviceClass) -> bool:
    """Whether a model of this class lacks nodes, or has requests that wait."""
    return any(_lacks_nodes(model) for model in device_class.served_models.all())


def _lacks_nodes(model: ServedModel) -> bool:
    nodes = list(Node.objects.filter(model=model.name, state__in=SERVING))
    if not model.is_automatic and len(nodes) < model.fixed_nodes:
        return True
    return any(_waiting(node) > 0 for node in nodes)


def _waiting(node: Node) -> int:
    """Requests that wait on the node, as its agent last read it; 0 for anything else that a node says."""
    said = node.load.get("waiting") if isinstance(node.load, dict) else None
    return said if isinstance(said, int) else 0
