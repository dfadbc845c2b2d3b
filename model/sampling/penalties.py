"""Adjust logits by the tokens of a sequence so far, and by a fixed bias.

Repetition (Keskar et al. 2019, arXiv:1909.05858): positive logits of tokens in prompt or output are divided by the
penalty, negative ones multiplied. Frequency and presence (OpenAI's formula): a token that the output holds c > 0
times loses c x frequency + presence. The bias is added. In this order. Overflows are clamped to fp32's largest number:
draws use differences, which infinite logits do not have.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.sampling.settings import SamplingSettings

_LARGEST = np.finfo(np.float32).max


class Penalties:
    """One sequence's token counts. Work per token grows with the number of distinct tokens, not with the text."""

    def __init__(self, settings: SamplingSettings, prompt: Sequence[int]) -> None:
        self._settings = settings
        self._is_counting = settings.is_penalising
        self._slots: dict[int, int] = {}  # token -> its place in the arrays
        self._ids = np.empty(16, np.intp)
        self._counts = np.empty(16, np.float32)  # in the output
        self._biased = np.fromiter(settings.logit_bias.keys(), np.intp, len(settings.logit_bias))
        self._bias = np.fromiter(settings.logit_bias.values(), np.float32, len(settings.logit_bias))
        if settings.repetition_penalty != 1:
            for token in dict.fromkeys(prompt):
                self._slot(token)

    def record(self, token: int) -> None:
        """Count one token of the output."""
        if self._is_counting:
            slot = self._slot(token)  # which may replace the arrays
            self._counts[slot] += 1

    def applied(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the penalties and the bias: returns a copy, or the same array if nothing changes."""
        n_seen = len(self._slots)
        if n_seen == 0 and self._biased.size == 0:
            return logits_V
        changed_V = logits_V.copy()
        if n_seen:
            ids = self._ids[:n_seen]
            changed_V[ids] = self._penalised(changed_V[ids], self._counts[:n_seen])
        changed_V[self._biased] += self._bias
        return changed_V

    def fork(self) -> Penalties:
        """An independent copy of the counts."""
        other = copy.copy(self)
        other._slots = dict(self._slots)
        other._ids, other._counts = self._ids.copy(), self._counts.copy()
        return other

    def _penalised(self, logits: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
        settings = self._settings
        if settings.repetition_penalty != 1:
            penalty = np.float32(settings.repetition_penalty)
            # the least penalties are 0 in fp32
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                logits = np.where(logits > 0, logits / penalty, logits * penalty)
            logits = np.minimum(logits, _LARGEST)
        lost = counts * np.float32(settings.frequency_penalty)
        lost += (counts > 0) * np.float32(settings.presence_penalty)
        return logits - lost

    def _slot(self, token: int) -> int:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == self._ids.size:
                self._ids, self._counts = np.resize(self._ids, 2 * slot), np.resize(self._counts, 2 * slot)
            self._ids[slot], self._counts[slot] = token, 0
        return slot
