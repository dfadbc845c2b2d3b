"""The two seats of a pair, and the tree that runs in each of them. No side is told its seat or its partner.

A pair's kind is the `tree` of its record in the evidence.
"""

from collections.abc import Mapping

SIDES = ("base", "candidate")  # the seats' names; a pair's record has its figures by these

#: By the kind of a pair: the tree in each seat.
SEATS: Mapping[str, Mapping[str, str]] = {
    "candidate": {"base": "base", "candidate": "candidate"},  # a measured pair
    "base": {"base": "base", "candidate": "base"},  # a control pair
    "old": {"base": "base", "candidate": "old"},  # whether base still has what was paid for it
    # ... next to the patch as well: candidate keeps its seat, and the tree that base was priced against takes base's
    "direct": {"base": "old", "candidate": "candidate"},
}
#: Kinds that say something about base only. They are no part of the candidate's gain.
ABOUT_BASE = tuple(kind for kind, trees in SEATS.items() if "old" in trees.values())


def has_tree(kind: str, tree: str) -> bool:
    """Whether a process of `tree` is in pairs of this kind."""
    return tree in SEATS[kind].values()
