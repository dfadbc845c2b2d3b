"""A chosen token and the log probabilities that go with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.sampling.filters import likeliest


@dataclass(frozen=True)
class Chosen:
    """The next token. Natural-log probabilities are the model's own, as OpenAI's: of the softmax of its logits
    before penalties, bias, constraint, temperature and filters. `top`: the likeliest tokens of that distribution,
    likeliest first, whether or not they could have been drawn."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def with_logprobs(token: int, logits_V: NDArray[np.float32], best: float, n_top: int) -> Chosen:
    """`best` is the largest of the model's own logits."""
    relative_V = logits_V - np.float32(best)
    log_sum = math.log(float(np.exp(relative_V).sum(dtype=np.float64)))
    ids = likeliest(relative_V, n_top).tolist() if n_top else []
    return Chosen(
        token,
        float(relative_V[token]) - log_sum,
        tuple((top, float(relative_V[top]) - log_sum) for top in ids),
    )
