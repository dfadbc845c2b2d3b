"""Minimum length of an answer: tokens that would end it are ruled out until then."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class MinTokens:
    """Constraint of one answer to a minimum length; implements `model.sampling.Constraint`."""

    def __init__(self, n_tokens: int, ends: frozenset[int], vocab_size: int) -> None:
        """`ends`: the tokens that are ruled out until the answer has `n_tokens`."""
        self._n_left, self._ends = n_tokens, ends
        self._vocab_size = vocab_size

    @property
    def is_finished(self) -> bool:
        return False

    def allows(self, token: int) -> bool:
        return self._n_left <= 0 or token not in self._ends

    def mask(self) -> NDArray[np.bool_]:
        mask_V = np.ones(self._vocab_size, dtype=np.bool_)
        if self._n_left > 0:
            mask_V[list(self._ends)] = False
        return mask_V

    def accept(self, token: int) -> None:
        self._n_left -= 1

    def allowed_prefix(self, tokens: Sequence[int]) -> int:
        early = tokens[: max(0, self._n_left)]
        return next((i for i, token in enumerate(early) if token in self._ends), len(tokens))

    def forced_tokens(self) -> list[int]:
        return []

    def fork(self) -> MinTokens:
        return copy.copy(self)
