"""Finds patches that no longer do what they were cut for: the red team's, and the demo's in `examples/`.

A patch for the judge must apply exactly to its base. A patch that intake refuses must still be refused in one of the ways
its header names; whether a careless tool would take it is for its positive control to say.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree
from benchmarks.redteam.naive import harness_names
from benchmarks.redteam.patch_file import ROOT, PatchFileError, RedTeamPatch, read_all

EXAMPLES = ROOT / "examples"
# Base trees of the demo against the shipped one, each with the folder of the patches that are made against it.
EXAMPLE_BASES = (
    (EXAMPLES / "base" / "textbook_moe.diff", EXAMPLES / "patches"),
    (EXAMPLES / "base" / "textbook_engine.diff", EXAMPLES / "engine"),
)


@dataclass(frozen=True, slots=True)
class Stale:
    """A patch file below the repository, and what is wrong with it."""

    path: Path
    reason: str


def stale() -> list[Stale]:
    """List everything that has to be cut again, red team first. Raises PatchFileError for headers that cannot be read."""
    with tempfile.TemporaryDirectory(prefix="gainshare-redteam-") as folder:
        store = BlobStore(Path(folder))
        shipped = shipped_tree(store)
        return [*_red_team(shipped, store), *_examples(shipped, store)]


def _red_team(shipped: Tree, store: BlobStore) -> Iterator[Stale]:
    for patch in read_all():
        if reason := staleness(patch, shipped, store):
            yield Stale(patch.path.relative_to(ROOT), reason)


def staleness(patch: RedTeamPatch, shipped: Tree, store: BlobStore) -> str:
    """Reason for which the patch must be cut again; empty where it need not be."""
    if patch.is_cheat and patch.naive not in harness_names():
        raise PatchFileError(f"{patch.path.name}: there is no naive harness {patch.naive!r}")
    try:
        base = shipped
        if patch.base:
            base = apply_patch(shipped, parse_patch((ROOT / patch.base).read_bytes()), store)
    except (PatchError, OSError) as error:
        return f"its base {patch.base}: {error}"
    try:
        if patch.old:
            apply_patch(shipped, parse_patch((ROOT / patch.old).read_bytes()), store)
    except (PatchError, OSError) as error:
        return f"its old tree {patch.old}: {error}"
    try:
        parsed = parse_patch(patch.diff)
        check_patch(load_policy(), parsed)
        apply_patch(base, parsed, store)
    except PatchError as error:
        if error.code != "does_not_apply" and VerdictKind.PATCH_REJECTED in patch.expect:
            return ""
        return error.message
    except PolicyViolation as error:
        return "" if VerdictKind.POLICY_VIOLATION in patch.expect else error.message
    return "" if patch.expect - {VerdictKind.PATCH_REJECTED} else "it is no longer refused when it is read"


def _examples(shipped: Tree, store: BlobStore) -> Iterator[Stale]:
    """The demo's bases against the shipped tree, and patches against their base."""
    for base_file, patches in EXAMPLE_BASES:
        try:
            base = apply_patch(shipped, parse_patch(base_file.read_bytes()), store)
        except (PatchError, OSError) as error:
            yield Stale(base_file.relative_to(ROOT), str(error))
            continue  # nothing can be said of the others
        for path in sorted(patches.glob("*.diff")):
            try:
                apply_patch(base, parse_patch(path.read_bytes()), store)
            except (PatchError, OSError) as error:
                yield Stale(path.relative_to(ROOT), str(error))
