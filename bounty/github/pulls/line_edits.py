"""The smallest edit from one list of lines to another, by Myers' greedy algorithm, with a bound on its work. Pure.

E. W. Myers, "An O(ND) Difference Algorithm and Its Variations", Algorithmica 1, 1986. Where the edit is larger than the
bound, the whole part that differs is replaced: that is an edit, too, and takes no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_EDITS = 1000  # removed and added lines that are looked for; the work grows by their square
CONTEXT = 3  # unchanged lines around a change


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `start` to `end` of the old text become lines `new_start` to `new_end` of the new one; counted from 0."""

    start: int
    end: int
    new_start: int
    new_end: int


def edits(old: Sequence[bytes], new: Sequence[bytes], *, most: int = MAX_EDITS) -> list[Edit]:
    """The edits from `old` to `new`, in order, with unchanged lines between each two."""
    first = _equal_at_start(old, new)
    last = _equal_at_end(old, new, first)
    inner_old, inner_new = old[first : len(old) - last], new[first : len(new) - last]
    if not inner_old and not inner_new:
        return []
    pairs = _equal_pairs(inner_old, inner_new, most)
    found, x, y = [], 0, 0
    for at, new_at in [*pairs, (len(inner_old), len(inner_new))]:
        if (x, y) != (at, new_at):
            found.append(Edit(first + x, first + at, first + y, first + new_at))
        x, y = at + 1, new_at + 1
    return found


def hunks(found: Sequence[Edit]) -> list[list[Edit]]:
    """Edits that share their context, together: the groups that a unified diff writes as one hunk each."""
    groups: list[list[Edit]] = []
    for edit in found:
        if groups and edit.start - groups[-1][-1].end <= 2 * CONTEXT:
            groups[-1].append(edit)
        else:
            groups.append([edit])
    return groups


def _equal_at_start(old: Sequence[bytes], new: Sequence[bytes]) -> int:
    most = min(len(old), len(new))
    return next((index for index in range(most) if old[index] != new[index]), most)


def _equal_at_end(old: Sequence[bytes], new: Sequence[bytes], first: int) -> int:
    most = min(len(old), len(new)) - first
    return next((index for index in range(most) if old[-1 - index] != new[-1 - index]), most)


def _equal_pairs(old: Sequence[bytes], new: Sequence[bytes], most: int) -> list[tuple[int, int]]:
    """The lines (old, new) that stay, in order; none where more than `most` lines would be removed or added."""
    reached = {1: 0}  # diagonal -> how far along the old lines
    trail: list[dict[int, int]] = []
    for depth in range(min(most, len(old) + len(new)) + 1):
        trail.append(dict(reached))
        for diagonal in range(-depth, depth + 1, 2):
            down = diagonal == -depth or (diagonal != depth and reached[diagonal - 1] < reached[diagonal + 1])
            x = reached[diagonal + 1] if down else reached[diagonal - 1] + 1
            y = x - diagonal
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x, y = x + 1, y + 1
            reached[diagonal] = x
            if x >= len(old) and y >= len(new):
                return _walked_back(trail, len(old), len(new))
    return []


def _walked_back(trail: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for depth in range(len(trail) - 1, -1, -1):
        reached, diagonal = trail[depth], x - y
        down = diagonal == -depth or (diagonal != depth and reached[diagonal - 1] < reached[diagonal + 1])
        before = diagonal + 1 if down else diagonal - 1
        came_from = reached[before] if depth else 0
        start = came_from + (0 if down or depth == 0 else 1)  # after the one removed or added line
        while x > start:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = came_from, came_from - before
    return pairs[::-1]
