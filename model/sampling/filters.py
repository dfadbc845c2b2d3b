"""Filters of the tokens that may be drawn: top-k, top-p and min-p, without sorting the vocabulary.

Logits come relative to their maximum: at most 0, -inf for tokens that are ruled out. They are counted (top-k) or
weighed (top-p) into a histogram; only the tokens of the bin in which the cut falls are sorted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model.sampling.settings import SamplingSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_N_BINS = 2048
_DEEPEST = 128.0  # logits further below the maximum share the last bin: exp(-128) is negligible


def kept_tokens(relative_V: Floats, settings: SamplingSettings) -> Ids | None:
    """Ids of the tokens that top-k, then top-p, then min-p keep, in any order; None: all are kept."""
    ids: Ids | None = None
    if 0 < settings.top_k < relative_V.size:
        ids = top_k(relative_V, settings.top_k)
    if settings.top_p < 1:
        chosen = nucleus(relative_V if ids is None else relative_V[ids], settings.top_p)
        ids = chosen if ids is None else ids[chosen]
    if settings.min_p > 0:
        floor = np.float32(math.log(settings.min_p))
        ids = np.flatnonzero(relative_V >= floor) if ids is None else ids[relative_V[ids] >= floor]
    return ids


def likeliest(relative_V: Floats, count: int) -> Ids:
    """Ids of the `count` largest, largest first; of equal ones the lowest ids, lowest first."""
    return _sorted(relative_V, np.sort(top_k(relative_V, count)))


def top_k(relative_V: Floats, count: int) -> Ids:
    """Ids of the `count` largest; of equal ones the lowest ids. All of them where there are fewer."""
    bins_V = _bins(relative_V)
    reached = np.bincount(bins_V, minlength=_N_BINS).cumsum()
    last_bin = int(np.searchsorted(reached, count))
    surely = np.flatnonzero(bins_V < last_bin)
    edge = _sorted(relative_V, np.flatnonzero(bins_V == last_bin))
    return np.concatenate((surely, edge[: count - surely.size]))


def nucleus(relative_V: Floats, mass: float) -> Ids:
    """Ids of the smallest set of likeliest tokens whose share of the probability reaches `mass`; never empty.

    The token that reaches it belongs to the set.
    """
    weights_V = np.exp(relative_V)
    bins_V = _bins(relative_V)
    reached = np.bincount(bins_V, weights=weights_V, minlength=_N_BINS).cumsum()
    needed = mass * float(reached[-1])
    last_bin = int(np.searchsorted(reached, needed))
    surely = np.flatnonzero(bins_V < last_bin)
    edge = _sorted(relative_V, np.flatnonzero(bins_V == last_bin))
    through = weights_V[edge].cumsum(dtype=np.float64)
    if last_bin > 0:
        needed -= float(reached[last_bin - 1])
    return np.concatenate((surely, edge[: int(np.searchsorted(through, needed)) + 1]))


def _bins(relative_V: Floats) -> Ids:
    """Bins of equal width over the logits' range, 0 for the largest."""
    depth = min(max(-float(relative_V.min()), 1e-6), _DEEPEST)
    bins_V = relative_V * np.float32(-(_N_BINS - 1) / depth)
    bins: Ids = np.minimum(bins_V, np.float32(_N_BINS - 1)).astype(np.intp)
    return bins


def _sorted(relative_V: Floats, ids: Ids) -> Ids:
    """Ascending ids by their logits, largest first; of equal ones the lower id first."""
    return ids[np.argsort(-relative_V[ids], kind="stable")]
