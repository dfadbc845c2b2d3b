"""Whether a merged tree may serve: everything that no patch may touch is as installed."""

from __future__ import annotations

from benchmarks.patch.policy import Policy, PolicyViolation, check_touched
from benchmarks.patch.trees import Tree

RENEW = "Renew the lineage, or merge the installed version of the file into it"


def check_deployable(policy: Policy, tree: Tree, installed: Tree) -> None:
    """Raise PolicyViolation for the first file that no patch may touch and that is not as in the installed tree.

    A patch cannot change such files, but the base of an old lineage, or a push to its repository, can have other ones:
    they count tokens and decide charges.
    """
    for path in sorted({entry.path for tree_ in (tree, installed) for entry in tree_.entries}):
        if tree.get(path) == installed.get(path):
            continue
        try:
            check_touched(policy, path)
        except PolicyViolation as refused:
            raise PolicyViolation(
                refused.code,
                f"{path} differs from the installed one, and no patch may change it, because nodes rely on it. {RENEW}.",
                path,
            ) from None
