"""Trees that agents may fetch: those of deployments that serve, will, or would be put back. Nothing else leaves here."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from django.conf import settings
from django.db.models import Q
from django.utils.module_loading import import_string

from benchmarks.patch.trees import BlobStore, Tree, TreeError
from gainshare.capacity.errors import NotFound
from gainshare.capacity.models import LIVE, UNDER_WAY, Deployment, DeploymentState, Node

CACHED = 64  # manifests; a tree's hash names what is in it, so none is ever out of date


def named_trees() -> set[str]:
    """Hashes of the trees that some host may have to run now, without the installed one."""
    current = Deployment.objects.filter(Q(state__in=UNDER_WAY) | Q(state=DeploymentState.SERVING))
    trees: set[str] = set()
    for tree, before, plan in current.values_list("tree", "before__tree", "plan"):
        trees |= {tree, before or "", str(plan.get("served", "")), str(plan.get("best", ""))}
    trees |= set(Node.objects.filter(state__in=LIVE).values_list("tree", flat=True))
    return trees - {""}


def manifest_for_agent(tree: str) -> dict[str, Any]:
    """The manifest of a tree that a deployment names (`Tree.to_manifest`). Raises NotFound."""
    if tree not in named_trees():
        raise NotFound("No deployment that is under way or serves names this tree.")
    return _tree(tree).to_manifest()


def blob_for_agent(sha256: str) -> bytes:
    """The bytes of a file of such a tree. Raises NotFound."""
    if not any(_has(tree, sha256) for tree in sorted(named_trees())):
        raise NotFound("No tree of a deployment that is under way or serves has this file.")
    try:
        return BlobStore(settings.BLOB_ROOT).get(sha256)
    except TreeError as error:
        raise NotFound(f"The site cannot give out this file: {error.message}") from None


def _has(tree: str, sha256: str) -> bool:
    """Whether the tree has such a file. A tree that is not in the store has none."""
    try:
        return sha256 in _blobs(tree)
    except NotFound:
        return False


@lru_cache(maxsize=CACHED)
def _tree(tree: str) -> Tree:
    """Raises NotFound where the store of trees does not have it, or has something else under its name."""
    manifest_of = cast(Callable[[str], dict[str, Any] | None], import_string(settings.DEPLOYED_TREES))
    manifest = manifest_of(tree)
    if manifest is None:
        raise NotFound("The store of trees does not have this tree.")
    try:
        found = Tree.from_manifest(manifest)
    except TreeError as error:
        raise NotFound(f"The store of trees has no usable manifest of this tree: {error.message}") from None
    if found.hash != tree:
        raise NotFound("What the store of trees has under this hash is another tree.")
    return found


@lru_cache(maxsize=CACHED)
def _blobs(tree: str) -> frozenset[str]:
    return frozenset(entry.blob for entry in _tree(tree).entries)
