"""Messages from rank 0 to the other serving ranks: small integer tensors, broadcast on the host.

A message is a command and integers. It goes out as one tensor of fixed size, which a decode step fits into, and a
second one where there is more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.collectives import Group
from model.serving.executors.base import Part

FIRST_INTS = 1024  # 4 KiB: a message of this size costs what an empty one does
_HEADER_INTS = 2  # command, number of integers


class Command(IntEnum):
    STOP = 0  # leave the job
    STEP = 1  # compute a step: `encode_parts`
    COPY_BLOCK = 2  # source, target


class Channel:
    """Ordered, reliable channel from rank 0 to all other ranks of a gloo group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def send(self, command: Command, integers: Sequence[int] = ()) -> None:
        """Send from rank 0. Integers have 32 bits. Raises the backend's error where a receiver is gone."""
        whole = torch.zeros(max(_HEADER_INTS + len(integers), FIRST_INTS), dtype=torch.int32)
        whole[: _HEADER_INTS + len(integers)] = torch.tensor(
            [command, len(integers), *integers], dtype=torch.int32
        )
        self._broadcast(whole[:FIRST_INTS])
        if len(whole) > FIRST_INTS:
            self._broadcast(whole[FIRST_INTS:])

    def receive(self) -> tuple[Command, list[int]]:
        """Waits for the next message. Raises the backend's error where rank 0 is gone."""
        first = torch.empty(FIRST_INTS, dtype=torch.int32)
        self._broadcast(first)
        command, n_integers = (int(number) for number in first[:_HEADER_INTS])
        integers: list[int] = first[_HEADER_INTS : _HEADER_INTS + n_integers].tolist()
        if n_integers > len(integers):
            rest = torch.empty(n_integers - len(integers), dtype=torch.int32)
            self._broadcast(rest)
            integers += rest.tolist()
        return Command(command), integers

    def meet(self) -> None:
        """Waits until all ranks have called it. Raises the backend's error where one is gone."""
        if self._group is not None:
            dist.barrier(self._group)

    def _broadcast(self, message: Tensor) -> None:
        if self._group is not None:
            dist.broadcast(message, group=self._group, group_src=0)


def encode_parts(parts: Sequence[Part]) -> list[int]:
    """Encode parts: for each its numbers of tokens, past, blocks and logits, then its tokens and blocks."""
    integers: list[int] = []
    for part in parts:
        integers += (len(part.tokens), part.past, len(part.blocks), part.n_logits)
        integers += part.tokens
        integers += part.blocks
    return integers


def decode_parts(integers: Sequence[int]) -> list[Part]:
    """The inverse of `encode_parts`. Raises ValueError for integers that are no parts."""
    parts: list[Part] = []
    at = 0
    while at < len(integers):
        if at + 4 > len(integers):
            raise ValueError(f"{len(integers) - at} integers are left, which is no part")
        n_tokens, past, n_blocks, n_logits = integers[at : at + 4]
        tokens_end = at + 4 + n_tokens
        end = tokens_end + n_blocks
        if end > len(integers):
            raise ValueError(f"a part of {n_tokens} tokens and {n_blocks} blocks is cut off")
        parts.append(Part(integers[at + 4 : tokens_end], past, integers[tokens_end:end], n_logits))
        at = end
    return parts
