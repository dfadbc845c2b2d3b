"""What is simulated: arrivals and lengths as arrays, from a trace, or drawn for given rates with a trace's lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gainshare.capacity.traces.requests import Trace

DAY_S = 86_400.0
BURSTY_CV = 2.0


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival: seconds from midnight UTC of the first day, prompt and output tokens, all of shape [n].

    ``blocks`` has each request's prefix hashes of ``block_tokens`` tokens, or is empty where nothing is known of prefixes.
    """

    name: str
    at_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    blocks: tuple[tuple[int, ...], ...] = ()
    block_tokens: int = 512

    @property
    def end_s(self) -> float:
        """End of the last whole minute that has a request."""
        return float(np.floor(self.at_s[-1] / 60) * 60 + 60) if len(self.at_s) else 0.0

    @property
    def digest(self) -> str:
        """Hash of arrivals and lengths: equal workloads have equal digests on each machine."""
        found = hashlib.sha256()
        found.update(np.round(self.at_s * 1e6).astype("<i8").tobytes())
        found.update(self.prompt_tokens.astype("<i8").tobytes())
        found.update(self.output_tokens.astype("<i8").tobytes())
        return found.hexdigest()[:16]

    def between(self, begin_s: float, end_s: float, name: str) -> Workload:
        """Requests of [begin_s, end_s), with ``begin_s`` as the new zero."""
        low, high = np.searchsorted(self.at_s, [begin_s, end_s])
        return Workload(
            name,
            self.at_s[low:high] - begin_s,
            self.prompt_tokens[low:high],
            self.output_tokens[low:high],
            self.blocks[low:high],
            self.block_tokens,
        )


def of_trace(trace: Trace) -> Workload:
    """A trace as it is, with its prefixes. Raises ValueError for a trace without requests."""
    requests = list(trace)
    if not requests:
        raise ValueError(f"{trace.name} has no requests: nothing can be simulated")
    blocks = tuple(request.blocks for request in requests)
    return Workload(
        trace.name,
        np.array([request.at_s for request in requests]),
        np.array([request.prompt_tokens for request in requests], dtype=np.int64),
        np.array([max(1, request.output_tokens) for request in requests], dtype=np.int64),
        blocks if any(blocks) else (),
        trace.block_tokens,
    )


def draw(
    rates: Sequence[float],
    step_s: float,
    lengths: Workload,
    *,
    requests: int,
    cv: float,
    seed: int,
    name: str,
) -> Workload:
    """About ``requests`` requests whose rate follows ``rates`` (one for each step of ``step_s``), with lengths drawn from others.

    Times between requests have the coefficient of variation ``cv``: 1 is a Poisson process, more is bursty (gamma
    distributed, stretched by the rate). Raises ValueError for rates that are negative or all zero.
    """
    shape = np.asarray(rates, dtype=np.float64)
    if not len(shape) or shape.min() < 0 or shape.sum() <= 0 or requests < 1 or cv <= 0:
        raise ValueError("rates must not be negative or all zero, and requests and cv must be above zero")
    random = np.random.default_rng(seed)
    expected = np.concatenate([[0.0], np.cumsum(shape)]) * (requests / shape.sum())
    order = 1.0 / cv**2
    gaps = random.gamma(order, 1.0 / order, size=int(requests + 8 * cv * requests**0.5 + 16))
    due = np.cumsum(gaps)
    due = due[due < expected[-1]]
    at_s = np.interp(due, expected, np.arange(len(expected)) * step_s)
    chosen = random.integers(0, len(lengths.at_s), size=len(at_s))
    return Workload(name, at_s, lengths.prompt_tokens[chosen], lengths.output_tokens[chosen])
