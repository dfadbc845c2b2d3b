"""Whether a stored tree has the layout that the judge measures. Trees of an older layout are kept, never measured."""

from collections.abc import Iterable
from functools import lru_cache

from benchmarks.patch import layout
from bounty.errors import OldLayout
from bounty.models import StoredTree

WAIT_FOR_RENEWAL = (
    "Wait until a maintainer has renewed the lineage (`gainshare lineages renew`), then send it again."
)
AGAINST_TIP = "Its author makes the diff against the lineage's tip and submits it again."


def has_present_layout(tree_hash: str) -> bool:
    """Whether the stored tree has every module that the suites' samples import."""
    return _has_modules(tree_hash, layout.SAMPLE_MODULES)


@lru_cache(maxsize=4096)  # a tree never changes, and the modules only with a new version
def _has_modules(tree_hash: str, _modules: tuple[str, ...]) -> bool:
    manifest = StoredTree.objects.values_list("manifest", flat=True).get(pk=tree_hash)
    return not layout.missing_modules(entry["path"] for entry in manifest["entries"])


def of_older_layout(hashes: Iterable[str]) -> list[str]:
    """Those of these trees that cannot be measured any more, each once."""
    return [tree_hash for tree_hash in dict.fromkeys(hashes) if not has_present_layout(tree_hash)]


def require_present_layout(tree_hash: str, *, instead: str) -> None:
    """Raises OldLayout, which says why and ``instead`` what to do, for a tree that cannot be measured."""
    if not has_present_layout(tree_hash):
        raise OldLayout(
            f"The tree {tree_hash[:12]} has an older layout: modules of model/ have moved since, and the judge "
            f"imports them from their new places, so the tree cannot be measured any more. {instead}"
        )
