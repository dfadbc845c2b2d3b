"""Trees in the database and the blob store, and lineages. Trees are immutable.

A tree of an older layout lacks modules that the suites' samples import. It is kept, but cannot be measured.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from django.db import IntegrityError, transaction

from benchmarks.patch import layout
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, check_size, load_policy
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import BlobStore, Tree, TreeError, shipped_tree
from bounty.errors import BadRequest, BountyError, NotFound, OldLayout
from bounty.models import Lineage, StoredTree
from bounty.services.access import require_public_tree, require_tree_sight
from bounty.services.permissions import require_maintainer
from bounty.services.transitions import note
from gainshare.accounts.models import User

SHIPPED = "shipped"
RENEW = "renew"  # reserved, because `lineages/renew/` is an operation


def blob_store() -> BlobStore:
    """The platform's store of file contents, diffs and evidence."""
    return BlobStore(settings.BLOB_ROOT)


def store_tree(*, tree: Tree, parent: StoredTree | None = None, created_by: User | None = None) -> StoredTree:
    """Get or create the row of ``tree``, whose blobs are already in the store."""
    stored, _ = StoredTree.objects.get_or_create(
        hash=tree.hash,
        defaults={"manifest": tree.to_manifest(), "parent": parent, "created_by": created_by},
    )
    return stored


def load_tree(stored: StoredTree) -> Tree:
    """Load the tree of a row and check its hash."""
    tree = Tree.from_manifest(stored.manifest)
    if tree.hash != stored.hash:
        raise BountyError(
            "A stored tree does not have the hash that names it.", code="damaged_tree", status=500
        )
    return tree


def find_tree(name: str) -> StoredTree:
    """The tree of this hash, or the installed stack's for ``shipped``. Raises NotFound, BadRequest."""
    if name == SHIPPED:
        return store_tree(tree=shipped_tree(blob_store()))
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise BadRequest('Name a tree by its 64 hex digits, or say "shipped".')
    stored = StoredTree.objects.filter(hash=name).first()
    if stored is None:
        raise NotFound("There is no tree with this hash. Make it with POST trees/.")
    return stored


def diff_size(diff: str) -> int:
    """Bytes of a diff's text, as the policy counts them."""
    return len(diff.encode("utf-8", "surrogatepass"))


def create_tree(*, actor: User, base: str, diff: str) -> StoredTree:
    """Apply ``diff`` to ``base`` and store the tree; without a diff, return ``base``.

    Only a maintainer's diff may go beyond the policy (a lineage's base tree may need it). Raises BadRequest with
    the reason why a diff cannot be read, applied or allowed, and Sealed for a base that the actor may not see;
    these store nothing.
    """
    parent = find_tree(base)
    require_tree_sight(actor, parent.pk)
    if not diff:
        return parent
    store = StagedBlobs(blob_store())
    try:
        if not actor.is_maintainer:
            check_size(load_policy(), diff_size(diff))
        patch = parse_patch(diff)
        if not actor.is_maintainer:
            check_patch(load_policy(), patch)
        tree = apply_patch(load_tree(parent), patch, store)
    except (PatchError, PolicyViolation, TreeError) as error:
        raise BadRequest(error.message, code=error.code) from None
    store.write()
    return store_tree(tree=tree, parent=parent, created_by=actor)


def create_lineage(*, actor: User, name: str, base_tree: str, is_demo: bool = False) -> Lineage:
    """Start a lineage at ``base_tree`` (a hash, or ``shipped``)."""
    require_maintainer(actor, "start a lineage")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", name):
        raise BadRequest(
            "A lineage's name may have lower-case letters, digits, - and _, at most 60 characters."
        )
    if name == RENEW:
        raise BadRequest(f"{RENEW} is reserved for an operation on lineages. Choose another name.")
    tree = find_tree(base_tree)
    require_public_tree(tree.pk)
    require_present_layout(tree.pk, instead='Start the lineage at the installed stack\'s tree, "shipped".')
    try:
        with transaction.atomic():
            lineage = Lineage.objects.create(
                name=name, is_demo=is_demo, origin=tree, tip=tree, created_by=actor
            )
            note(lineage, old="", new=tree.hash, reason="lineage started", actor=actor)
    except IntegrityError:
        raise BountyError(
            "A lineage with this name already exists. Choose another name.", code="lineage_exists"
        ) from None
    return lineage


def start_lineage(*, actor: User, name: str, base_tree: str, diff: str, is_demo: bool) -> Lineage:
    """Start a lineage at ``base_tree`` with ``diff`` applied; tree and lineage are made together or not at all."""
    require_maintainer(actor, "start a lineage")
    with transaction.atomic():
        origin = create_tree(actor=actor, base=base_tree, diff=diff)
        return create_lineage(actor=actor, name=name, base_tree=origin.pk, is_demo=is_demo)


WAIT_FOR_RENEWAL = (
    "Wait until a maintainer has renewed the lineage (`gainshare lineages renew`), then submit it again."
)
AGAINST_TIP = "Its author can make the diff against the lineage's tip and submit it again."


def has_present_layout(tree_hash: str) -> bool:
    """Whether the stored tree has every module that the suites' samples import."""
    return _has_modules(tree_hash, layout.SAMPLE_MODULES)


@lru_cache(maxsize=4096)  # trees are immutable, and the modules change only with a new version
def _has_modules(tree_hash: str, _modules: tuple[str, ...]) -> bool:
    manifest = StoredTree.objects.values_list("manifest", flat=True).get(pk=tree_hash)
    return not layout.missing_modules(entry["path"] for entry in manifest["entries"])


def of_older_layout(hashes: Iterable[str]) -> list[str]:
    """The distinct trees among these that have an older layout."""
    return [tree_hash for tree_hash in dict.fromkeys(hashes) if not has_present_layout(tree_hash)]


def require_present_layout(tree_hash: str, *, instead: str) -> None:
    """Raises OldLayout for a tree of an older layout; ``instead`` tells the user what to do."""
    if not has_present_layout(tree_hash):
        raise OldLayout(
            f"The tree {tree_hash[:12]} has an older layout: modules of model/ have moved since, and the "
            f"judge imports them from their new places. So the tree can no longer be measured. {instead}"
        )
