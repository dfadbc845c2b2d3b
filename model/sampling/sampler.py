"""Draw one sequence's tokens, one after the other or against draft tokens.

A draw is a function of the logits, the settings, the tokens before it (penalties, constraint), the seed and the
index of the output token. Nothing else enters: not the call order, not other sequences. So a seed gives the same
tokens alone, in a batch, after a preemption and under speculation, wherever the logits are the same.
"""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.sampling.chosen import Chosen, with_logprobs
from model.sampling.constraint import Constraint
from model.sampling.filters import kept_tokens
from model.sampling.noise import all_tokens, derived_seed, gumbel, key
from model.sampling.penalties import Penalties
from model.sampling.settings import MAX_SEED, SamplingSettings

_LEAST_TEMPERATURE = 1e-5


class Sampler:
    """Sampler of one answer, with its drawn tokens and its constraint."""

    def __init__(
        self, settings: SamplingSettings, *, prompt: Sequence[int] = (), constraint: Constraint | None = None
    ) -> None:
        """`prompt` is used by the repetition penalty alone."""
        self.settings = settings
        self.constraint = constraint
        self.seed = secrets.randbelow(MAX_SEED + 1) if settings.seed is None else settings.seed
        self.n_drawn = 0
        self._penalties = Penalties(settings, prompt)

    def __call__(self, logits_V: NDArray[np.float32]) -> Chosen:
        """Draw the next token and record it.

        Raises FloatingPointError where the logits, or those of the tokens that the constraint allows, hold no finite
        maximum, and ConstraintError where the constraint cannot continue.
        """
        likeliest = int(logits_V.argmax())  # a NaN if there is one
        best = float(logits_V[likeliest])
        if not math.isfinite(best):
            raise FloatingPointError("the model's logits are not finite")
        changed_V = self._penalties.applied(logits_V)
        is_plain = changed_V is logits_V and self.constraint is None and self.settings.temperature == 0
        token = likeliest if is_plain else self._drawn(changed_V, self.n_drawn)
        if self.constraint is not None:
            self.constraint.accept(token)
        self._penalties.record(token)
        self.n_drawn += 1
        if self.settings.logprobs is None:
            return Chosen(token)
        return with_logprobs(token, logits_V, best, self.settings.logprobs)

    def verify(self, logits_MV: NDArray[np.float32], drafts: Sequence[int]) -> list[Chosen]:
        """Verify draft tokens: returns the tokens of plain decoding, up to and with the first that differs from its draft.

        Row i of the logits follows i draft tokens, so M is their number plus one. All returned tokens are recorded; if
        all draft tokens were drawn, the last row gives one more token, unless a draft token ended a constrained answer.
        A draft token that was chosen without the seed is accepted with exactly the probability of sampling it: the
        greatest that keeps the distribution (Leviathan et al. 2023, arXiv:2211.17192).
        """
        if logits_MV.shape[0] != len(drafts) + 1:
            raise ValueError(
                f"{len(drafts)} draft tokens need {len(drafts) + 1} rows of logits, not {logits_MV.shape[0]}"
            )
        chosen: list[Chosen] = []
        for logits_V, draft in zip(logits_MV, (*drafts, None), strict=True):
            chosen.append(self(logits_V))
            if chosen[-1].token != draft or (self.constraint is not None and self.constraint.is_finished):
                break
        return chosen

    def draft_token(self, logits_V: NDArray[np.float32], distance: int) -> int:
        """Choose a draft token: the draw of `distance` tokens from now if its logits were these; records nothing.

        It uses the random numbers of the later draw, so it is accepted more often than the likeliest token.
        Penalties are the current ones, and a constraint is left out: a draft token may be wrong.
        """
        return self._free(self._penalties.applied(logits_V), self.n_drawn + distance)

    def fork(self, i: int) -> Sampler:
        """The sampler of the i-th of n answers after the same past; the 0-th draws as this one would."""
        other = copy.copy(self)
        if i > 0:
            other.seed = derived_seed(self.seed, i)
            other.settings = replace(self.settings, seed=other.seed)
        other._penalties = self._penalties.fork()
        other.constraint = None if self.constraint is None else self.constraint.fork()
        return other

    def _drawn(self, logits_V: NDArray[np.float32], index: int) -> int:
        """Draw a token from the changed logits, within the constraint."""
        constraint = self.constraint
        if constraint is None:
            return self._free(logits_V, index)
        if self._ignores_ruled_out_tokens:
            token = self._free(logits_V, index)
            if constraint.allows(token):
                return token  # an allowed token that wins among all tokens also wins among the allowed ones
        logits_V = np.where(constraint.mask(), logits_V, np.float32(-np.inf))
        if not np.isfinite(logits_V.max()):
            raise FloatingPointError("no token that the constraint allows has a finite logit")
        return self._free(logits_V, index)

    @property
    def _ignores_ruled_out_tokens(self) -> bool:
        """Whether ruling out tokens leaves the others' draws unchanged, as without filters, which count all tokens."""
        settings = self.settings
        return settings.temperature == 0 or (
            settings.top_k == 0 and settings.top_p == 1 and settings.min_p == 0
        )

    def _free(self, logits_V: NDArray[np.float32], index: int) -> int:
        """Draw a token without a constraint; of equal ones the lowest id."""
        settings = self.settings
        best = int(logits_V.argmax())
        if settings.temperature == 0:
            return best
        scale = np.float32(1 / max(settings.temperature, _LEAST_TEMPERATURE))
        relative_V = (logits_V - logits_V[best]) * scale
        ids = kept_tokens(relative_V, settings)
        noise_key = key(self.seed, index)
        if ids is None:
            relative_V += gumbel(noise_key, all_tokens(relative_V.size))
            return int(relative_V.argmax())
        return int(ids[(relative_V[ids] + gumbel(noise_key, ids.astype(np.uint32))).argmax()])
