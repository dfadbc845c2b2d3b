"""Layout of the residual stream between tensor parallel modules: whole on each rank, or split by positions.

Split, it is sequence parallel (Korthikanti et al. 2022, arXiv:2205.05198): a rank has some positions of each row,
which are gathered on the way into a split module, and of the sum that comes out it keeps its own. So norms, sums of the
stream and a layer's saved copies are 1 / tp on each rank, with the same communication: an all-reduce is a gather and a
scatter. Positions, rotations and targets stay those of whole rows.

Shape suffix of this file: P positions that one rank has, of S.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from model.parallel.collectives import (
    Group,
    copy_to,
    even_sizes,
    gather_to,
    reduce_from,
    reduce_scatter_from,
)


class Residual(Protocol):
    """Interface of one rank's stream: `enter` a region where each rank computes a part of a sum, and `leave` it."""

    group: Group

    def begin(self, n_tokens: int) -> None:
        """Set the number of positions of rows until the next call, backward passes included."""

    def n_own(self, n_tokens: int) -> int:
        """Number of positions of such rows on this rank."""

    def enter(self, x_BPD: Tensor) -> Tensor:
        """[B, P, D] -> [B, S, D]; gradients are summed over the ranks."""

    def leave(self, y_BSD: Tensor) -> Tensor:
        """Parts of a sum [B, S, D] -> the sum, [B, P, D]."""


class WholeResidual:
    """The whole stream on each rank."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def begin(self, n_tokens: int) -> None:
        """Do nothing."""

    def n_own(self, n_tokens: int) -> int:
        """All positions."""
        return n_tokens

    def enter(self, x_BSD: Tensor) -> Tensor:
        """The stream unchanged."""
        return copy_to(x_BSD, self.group)

    def leave(self, y_BSD: Tensor) -> Tensor:
        """The whole sum."""
        return reduce_from(y_BSD, self.group)


class SplitResidual:
    """The stream split by positions; the first ranks have one more if they do not divide evenly."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._sizes: list[int] = []

    def begin(self, n_tokens: int) -> None:
        """Set the number of positions, which recomputation in a backward pass reads again."""
        self._sizes = even_sizes(n_tokens, self.group)

    def n_own(self, n_tokens: int) -> int:
        """Number of positions on this rank; may be 0 for short rows."""
        return even_sizes(n_tokens, self.group)[0 if self.group is None else self.group.rank()]

    def enter(self, x_BPD: Tensor) -> Tensor:
        """All ranks' positions."""
        return gather_to(x_BPD.transpose(0, 1), self._sizes, self.group).transpose(0, 1).contiguous()

    def leave(self, y_BSD: Tensor) -> Tensor:
        """This rank's positions of the sum."""
        y_PBD = reduce_scatter_from(y_BSD.transpose(0, 1), self._sizes, self.group)
        return y_PBD.transpose(0, 1).contiguous()
