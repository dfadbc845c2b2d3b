"""Chooses the next token from logits. Knows nothing of text, requests or engines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


class SamplingError(ValueError):
    """Settings that no sampler can follow; `parameter` names the one at fault."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True)
class SamplingSettings:
    """Greedy at temperature 0; otherwise top-k, then top-p (Holtzman et al. 2020, arXiv:1904.09751), then a draw.

    `top_k` 0 keeps all tokens. A seed makes the same model on the same machine answer the same. Raises
    SamplingError where a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise SamplingError("temperature", "temperature must lie between 0 and 2")
        if not 0 < self.top_p <= 1:
            raise SamplingError("top_p", "top_p must be above 0 and at most 1")
        if self.top_k < 0:
            raise SamplingError("top_k", "top_k must be 0 (all tokens) or more")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise SamplingError("seed", f"seed must lie between 0 and {MAX_SEED}")


class Sampler:
    """Draws one sequence's tokens; holds that sequence's random state."""

    def __init__(self, settings: SamplingSettings) -> None:
        self.settings = settings
        self._random = torch.Generator()
        if settings.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(settings.seed)

    def __call__(self, logits_V: Tensor) -> int:
        """The next token id. Raises FloatingPointError where the logits hold no finite maximum."""
        logits_V = logits_V.float().cpu()
        best = int(logits_V.argmax())
        if not torch.isfinite(logits_V[best]):
            raise FloatingPointError("the model's logits are not finite")
        if self.settings.temperature == 0:
            return best
        probabilities_V, ids_V = self._distribution(logits_V)
        return int(ids_V[torch.multinomial(probabilities_V, 1, generator=self._random)])

    def _distribution(self, logits_V: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised probabilities of the tokens that may be drawn, likeliest first, and their ids."""
        settings = self.settings
        scaled_V = (logits_V - logits_V.max()) / max(settings.temperature, 1e-5)
        if settings.top_k == 0 and settings.top_p == 1:
            return scaled_V.softmax(-1), torch.arange(scaled_V.numel())
        n_kept = min(settings.top_k or scaled_V.numel(), scaled_V.numel())
        kept, ids = scaled_V.topk(n_kept)
        probabilities = kept.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier ones
        probabilities[before >= settings.top_p] = 0  # the first always stays: nothing is before it
        return probabilities, ids
