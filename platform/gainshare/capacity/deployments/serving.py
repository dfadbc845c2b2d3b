"""Which tree of a model answers new requests, and which one its new nodes execute. "" is the installed tree.

Routing, scaling and the local stack ask here. It is one query each, because routing asks several times a second.
"""

from __future__ import annotations

from gainshare.capacity.models import Deployment, DeploymentState


def serving_tree(model: str) -> str:
    """The tree whose nodes get all new requests for ``model``."""
    serving = Deployment.objects.filter(model=model, state=DeploymentState.SERVING)
    return serving.values_list("tree", flat=True).first() or ""


def serving_trees() -> dict[str, str]:
    """The same for all models that have a serving deployment; the others are served by the installed tree."""
    return dict(Deployment.objects.filter(state=DeploymentState.SERVING).values_list("model", "tree"))


def ordered_tree(model: str) -> str:
    """The tree that a new node of ``model`` executes: what serves, or a first deployment that is about to.

    Call it for every `hosts.nodes.order` and whenever nodes of a model are counted. A deployment that starts beside a
    serving tree gets its nodes from `handover`, not from scaling.
    """
    first = Deployment.objects.filter(model=model, state=DeploymentState.STARTING, is_first=True)
    tree = first.values_list("tree", flat=True).first()
    return serving_tree(model) if tree is None else tree
