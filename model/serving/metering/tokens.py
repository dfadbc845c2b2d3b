"""What open code returns, taken over as exact values: patches may touch samplers, schedulers and executors.

Tokens are what bills count, so an answer goes on with tokens that were read once, and are whole numbers of the
vocabulary, no more of them than the step can have brought.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from model.sampling import Chosen

MOST_ALTERNATIVES = 20  # of a token, with log probabilities: as many as requests may ask for


class BadTokensError(Exception):
    """A sampler returned what an answer cannot go on with."""


@dataclass(frozen=True, slots=True)
class AnswerToken:
    """A token of an answer, its natural-log probability if the sampler gave it, and the likeliest ones with theirs."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def whole(said: Any) -> int:
    """The whole number that open code calls a count; 0 for what is none."""
    try:
        return operator.index(said)
    except Exception:
        return 0


def answer_tokens(outcome: object, *, most: int, vocab_size: int) -> list[AnswerToken]:
    """The tokens that a sampler returned for one step. Raises BadTokensError."""
    if type(outcome) is not list or not 1 <= len(outcome) <= most:
        raise BadTokensError(f"a sampler returned no list of 1 to {most} tokens")
    try:
        return [_taken_over(chosen, vocab_size) for chosen in outcome[:]]
    except BadTokensError:
        raise
    except Exception as error:
        raise BadTokensError(f"a sampler returned what is no token: {type(error).__name__}") from error


def _taken_over(chosen: Chosen, vocab_size: int) -> AnswerToken:
    token, logprob = chosen.token, chosen.logprob
    if type(token) is not int or not 0 <= token < vocab_size:
        raise BadTokensError(f"a sampler returned no token of 0 to {vocab_size - 1}")
    if logprob is None:
        return AnswerToken(token)
    top = tuple((_token(each), _number(likely)) for each, likely in islice(chosen.top, MOST_ALTERNATIVES))
    return AnswerToken(token, _number(logprob), top)


def _token(said: object) -> int:
    if type(said) is not int or said < 0:
        raise BadTokensError("an alternative is not a token")
    return said


def _number(said: float) -> float:
    number = float(said)
    if math.isnan(number):
        raise BadTokensError("a log probability is not a number")
    return number
