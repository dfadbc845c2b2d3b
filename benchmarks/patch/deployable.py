"""Which trees a node may execute in place of the installed one: those that differ from it in open files only."""

from __future__ import annotations

from benchmarks.patch.policy import Policy, PolicyViolation, check_touched
from benchmarks.patch.trees import Tree


def check_deployable(tree: Tree, installed: Tree, policy: Policy) -> None:
    """Raise PolicyViolation for a file outside what the policy allows, or a protected one that is not the installed one.

    A patch cannot change such files, but the base of an old lineage, or a push to its repository, can have other ones:
    they count tokens and decide charges. Missing, added and shadowing ones are refused too. Modes are left out, because
    they differ between a clone and an installed wheel.
    """
    paths = {entry.path for side in (tree, installed) for entry in side.entries}
    for path in sorted(path for path in paths if _blob(tree, path) != _blob(installed, path)):
        try:
            check_touched(policy, path)
        except PolicyViolation as violation:
            if violation.code != "file_type":  # what a patch may not add, a base may have
                raise PolicyViolation(
                    violation.code,
                    f"{path} differs from the installed one, and no patch may change it, because nodes rely on it. "
                    "Renew the lineage, or merge the installed version of the file into it.",
                    path,
                ) from None


def _blob(tree: Tree, path: str) -> str | None:
    entry = tree.get(path)
    return None if entry is None else entry.blob
