"""Whether scaling wants more nodes of a class than there are: then none of its devices is lent."""

from __future__ import annotations

from gainshare.capacity.deployments.serving import ordered_tree
from gainshare.capacity.models import DeviceClass, Node, NodeState, ScalingState

SERVING = (NodeState.STARTING, NodeState.READY)


def is_wanted(device_class: DeviceClass) -> bool:
    """Whether a served model lacks nodes of this class, or nothing has been decided for it yet."""
    if device_class.served_models.filter(scaling=None).exists():
        return True
    return any(
        scaling.wanted[device_class.name] > _nodes(scaling.served.name, device_class)
        for scaling in ScalingState.objects.filter(wanted__has_key=device_class.name).select_related("served")
    )


def _nodes(model: str, device_class: DeviceClass) -> int:
    """Nodes of the class that serve the model or will."""
    nodes = Node.objects.filter(model=model, tree=ordered_tree(model), state__in=SERVING)
    return nodes.filter(host__device_class=device_class).count()
