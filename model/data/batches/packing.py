"""Best-fit packing of lengths into sequences. Plans with numbers only.

Best-fit decreasing as in Ding et al. 2024 (Fewer Truncations Improve Language Modeling, arXiv:2404.10830): the longest
first, each into the fullest sequence that still has room; at most 11/9 of the least possible number of sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def cut(length: int, capacity: int) -> list[int]:
    """Lengths of the pieces of one document: one, unless it is longer than a sequence."""
    whole, rest = divmod(length, capacity)
    return [capacity] * whole + [rest] * (rest > 0)


def pack(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Sequences as lists of indices into `lengths`, of at most `capacity` tokens each; every index once.

    O(n log n + n log capacity) for n lengths. Raises ValueError for a length below 1 or above the capacity.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    if lengths_N.size and not 1 <= lengths_N.min() <= lengths_N.max() <= capacity:
        raise ValueError(f"lengths must be between 1 and the sequence length {capacity}: cut documents first")
    sequences: list[list[int]] = []
    open_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # sequences by their free tokens
    rooms = _Rooms(capacity)
    longest_first = np.argsort(-lengths_N, kind="stable")
    for index, length in zip(longest_first.tolist(), lengths_N[longest_first].tolist(), strict=True):
        room = rooms.least(length)
        if room is None:
            room, sequence = capacity, len(sequences)
            sequences.append([])
        else:
            sequence = open_by_room[room].pop()
            if not open_by_room[room]:
                rooms.remove(room)
        sequences[sequence].append(index)
        if room > length:
            if not open_by_room[room - length]:
                rooms.add(room - length)
            open_by_room[room - length].append(sequence)
    return sequences


def padding_share(lengths: Sequence[int] | NDArray[np.int64], n_cells: int) -> float:
    """Share of padding in `n_cells` positions with sequences of these `lengths`."""
    return 1 - int(np.sum(lengths)) / n_cells if n_cells else 0.0


class _Rooms:
    """A set of numbers 0..capacity that finds the least one not below a limit in O(log capacity): a segment tree."""

    def __init__(self, capacity: int) -> None:
        self._size = 1 << capacity.bit_length()
        self._has = bytearray(2 * self._size)  # node i has children 2i and 2i + 1; leaves from _size on

    def add(self, room: int) -> None:
        node = room + self._size
        while node and not self._has[node]:
            self._has[node] = 1
            node >>= 1

    def remove(self, room: int) -> None:
        node = room + self._size
        self._has[node] = 0
        node >>= 1
        while node and not (self._has[2 * node] or self._has[2 * node + 1]):
            self._has[node] = 0
            node >>= 1

    def least(self, limit: int) -> int | None:
        node = limit + self._size
        if self._has[node]:
            return limit
        while node > 1:
            if node % 2 == 0 and self._has[node + 1]:
                node += 1
                break
            node >>= 1
        else:
            return None
        while node < self._size:
            node = 2 * node if self._has[2 * node] else 2 * node + 1
        return node - self._size
