"""Sampling settings and their valid ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_SEED = 2**63 - 1
MAX_TOP_LOGPROBS = 20  # as OpenAI's API
MAX_REPETITION_PENALTY = 10.0


class SamplingError(ValueError):
    """Invalid sampling settings; `parameter` names the one at fault."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling settings: greedy at temperature 0, else a draw from the tokens that top-k, top-p and min-p keep.

    Penalties and bias change the logits first, at every temperature; docs/concepts/sampling.md says how and in which
    order. `top_k` 0 keeps all tokens. `logprobs` None: none; n: of the chosen token and the n likeliest ones. With a
    seed the same model on the same machine gives the same answer. Raises SamplingError where a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0  # arXiv:1904.09751
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0  # arXiv:2407.01082: least probability, as a share of the likeliest token's
    repetition_penalty: float = 1.0  # arXiv:1909.05858: over prompt and output
    presence_penalty: float = 0.0  # OpenAI's: over the output
    frequency_penalty: float = 0.0  # the same, times the count
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)  # added to these tokens' logits
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 2)
        if not 0 < self.top_p <= 1:
            raise SamplingError("top_p", "top_p must be above 0 and at most 1")
        if self.top_k < 0:
            raise SamplingError("top_k", "top_k must be at least 1, or 0 for all tokens")
        if self.seed is not None:
            _within("seed", self.seed, 0, MAX_SEED)
        _within("min_p", self.min_p, 0, 1)
        if not 0 < self.repetition_penalty <= MAX_REPETITION_PENALTY:
            raise SamplingError(
                "repetition_penalty",
                f"repetition_penalty must be above 0 (1: none) and at most {MAX_REPETITION_PENALTY:g}",
            )
        _within("presence_penalty", self.presence_penalty, -2, 2)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        for token, bias in self.logit_bias.items():
            if token < 0:
                raise SamplingError("logit_bias", f"logit_bias names token {token}; token ids start at 0")
            _within("logit_bias", bias, -100, 100)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)

    @property
    def is_penalising(self) -> bool:
        """Whether earlier tokens change the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises SamplingError where the bias names a token that the model does not have."""
        beyond = [token for token in self.logit_bias if token >= vocab_size]
        if beyond:
            raise SamplingError(
                "logit_bias", f"logit_bias names token {beyond[0]}; this model has {vocab_size} tokens"
            )


def _within(parameter: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # false for nan too
        raise SamplingError(parameter, f"{parameter} must be between {least} and {most}")
