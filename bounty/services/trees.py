"""Trees in the database and the blob store, and lineages. Trees are stored once and never changed."""

import re

from django.conf import settings
from django.db import IntegrityError, transaction

from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from benchmarks.patch.trees import BlobStore, Tree, TreeError, shipped_tree
from bounty.errors import BadRequest, BountyError, NotAllowed, NotFound
from bounty.models import Lineage, StoredTree
from bounty.services.layouts import require_present_layout
from bounty.services.transitions import note
from gainshare.accounts.models import User

SHIPPED = "shipped"
RENEW = "renew"  # no name for a lineage: `lineages/renew/` is an operation


def blob_store() -> BlobStore:
    """The platform's store of file contents, diffs and evidence."""
    return BlobStore(settings.BLOB_ROOT)


def store_tree(*, tree: Tree, parent: StoredTree | None = None, created_by: User | None = None) -> StoredTree:
    """The row of ``tree``, made if it is new. Its blobs are in the store already."""
    stored, _ = StoredTree.objects.get_or_create(
        hash=tree.hash,
        defaults={"manifest": tree.to_manifest(), "parent": parent, "created_by": created_by},
    )
    return stored


def load_tree(stored: StoredTree) -> Tree:
    """The tree of a row; its hash is checked again."""
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
        raise NotFound("There is no tree of this hash; make it with POST trees/.")
    return stored


def create_tree(*, actor: User, base: str, diff: str) -> StoredTree:
    """The tree that ``diff`` makes of ``base``; without a diff, ``base`` itself.

    Only a maintainer's diff may go beyond the policy (a lineage's base tree may need it). Raises BadRequest with
    the reason why a diff cannot be read, applied or allowed.
    """
    parent = find_tree(base)
    if not diff:
        return parent
    store = blob_store()
    try:
        patch = parse_patch(diff)
        if not actor.is_maintainer:
            check_patch(load_policy(), patch)
        tree = apply_patch(load_tree(parent), patch, store)
    except (PatchError, PolicyViolation, TreeError) as error:
        raise BadRequest(error.message, code=error.code) from None
    return store_tree(tree=tree, parent=parent, created_by=actor)


def create_lineage(*, actor: User, name: str, base_tree: str, is_demo: bool = False) -> Lineage:
    """A new line of trees that starts at ``base_tree`` (a hash, or ``shipped``)."""
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer starts a lineage.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", name):
        raise BadRequest("Name the lineage with lower-case letters, digits, - and _, at most 60.")
    if name == RENEW:
        raise BadRequest(f"{RENEW} is the name of an operation on lineages: choose another name.")
    tree = find_tree(base_tree)
    require_present_layout(tree.pk, instead='Start the lineage at the installed stack\'s tree, "shipped".')
    try:
        with transaction.atomic():
            lineage = Lineage.objects.create(
                name=name, is_demo=is_demo, origin=tree, tip=tree, created_by=actor
            )
            note(lineage, old="", new=tree.hash, reason="lineage started", actor=actor)
    except IntegrityError:
        raise BountyError("There is a lineage of this name.", code="lineage_exists") from None
    return lineage


def start_lineage(*, actor: User, name: str, base_tree: str, diff: str, is_demo: bool) -> Lineage:
    """A new line of trees that starts at what ``diff`` makes of ``base_tree``: both are made, or neither."""
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer starts a lineage.")
    with transaction.atomic():
        origin = create_tree(actor=actor, base=base_tree, diff=diff)
        return create_lineage(actor=actor, name=name, base_tree=origin.pk, is_demo=is_demo)
