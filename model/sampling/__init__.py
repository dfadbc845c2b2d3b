"""Sampling: settings, penalties, filters, draws, log probabilities, verification of draft tokens.

A draw depends on the seed, the index of the output token and the logits, on nothing else: see `sampler.py`. Knows
nothing of text, requests or engines.
"""

from model.sampling.chosen import Chosen
from model.sampling.constraint import Constraint, ConstraintError
from model.sampling.sampler import Sampler
from model.sampling.settings import MAX_SEED, MAX_TOP_LOGPROBS, SamplingError, SamplingSettings

__all__ = [
    "MAX_SEED",
    "MAX_TOP_LOGPROBS",
    "Chosen",
    "Constraint",
    "ConstraintError",
    "Sampler",
    "SamplingError",
    "SamplingSettings",
]
