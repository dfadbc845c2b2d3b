"""Names of the trees that answer: a request's `model@HASH`, and the fingerprint that each answer carries. Pure.

`model` alone is answered by the tree that serves now. `model@HASH` asks for one tree, by at least eight digits of its
hash: the serving one, or the one before, which is kept for a day after a deployment.
"""

from __future__ import annotations

import re

from gainshare.gateway.errors import UnknownTree

PINNED = re.compile(r"(?P<model>.+)@(?P<tree>[0-9a-f]{8,64})")
SHORT = 12  # digits of a hash that are shown


def model_and_tree(name: str) -> tuple[str, str]:
    """`name` of a request as the model's name and the wanted tree's first digits, empty for any: `tiny@0123456789ab`."""
    found = PINNED.fullmatch(name)
    return (found["model"], found["tree"]) if found else (name, "")


def system_fingerprint(tree: str) -> str | None:
    """OpenAI's `system_fingerprint`: it changes when the code that answers does. None where the tree is not known."""
    return f"fp_{tree[:SHORT]}" if tree else None


def is_wanted(tree: str, *, is_former: bool, wanted: str) -> bool:
    """Whether a node with `tree` may answer a request for `wanted`. A former tree answers only those that name it."""
    return tree.startswith(wanted) if wanted and tree else not wanted and not is_former


def no_such_tree(model: str, wanted: str, known: set[str]) -> UnknownTree:
    """The error for a pinned tree that no node has."""
    there = ", ".join(f"{model}@{tree[:SHORT]}" for tree in sorted(known))
    return UnknownTree(
        f"No node serves the model '{model[:100]}' from the tree {wanted[:SHORT]}. The tree before a deployment is kept "
        f"for a day. Served now: {there or 'no tree that is known'}; '{model[:100]}' alone takes the one in use.",
        param="model",
    )
