"""What is simulated: a trace's arrivals and lengths as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gainshare.capacity.traces.requests import Trace

DAY_S = 86_400.0


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


def of_trace(trace: Trace, *, with_prefixes: bool = False) -> Workload:
    """A trace as it is. Raises ValueError for a trace without requests."""
    rows: list[tuple[float, int, int]] = []
    blocks: list[tuple[int, ...]] = []
    for request in trace:
        rows.append((request.at_s, max(1, request.prompt_tokens), max(1, request.output_tokens)))
        if with_prefixes:
            blocks.append(request.blocks)
    if not rows:
        raise ValueError(f"{trace.name} has no requests: nothing can be simulated")
    columns = np.array(rows)
    return Workload(
        trace.name,
        columns[:, 0],
        columns[:, 1].astype(np.int64),
        columns[:, 2].astype(np.int64),
        tuple(blocks) if any(blocks) else (),
        trace.block_tokens,
    )
