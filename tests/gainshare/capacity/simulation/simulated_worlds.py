"""Small workloads and devices for tests of the simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from gainshare.capacity.policies.observed import ClassFacts
from gainshare.capacity.simulation.pool import Device
from gainshare.capacity.simulation.rates import Rates
from gainshare.capacity.simulation.workload import Workload

RATES = Rates(step_s=0.004, sequence_s=0.002, prompt_token_s=0.0005, prompt_pair_s=1e-7, step_tokens=256)


def workload(
    rows: Sequence[tuple[float, int, int]], blocks: Sequence[tuple[int, ...]] = (), block_tokens: int = 512
) -> Workload:
    """Requests as (at_s, prompt tokens, output tokens), in order."""
    columns = np.array(rows, dtype=float).reshape(-1, 3)
    return Workload(
        "rows",
        columns[:, 0],
        columns[:, 1].astype(np.int64),
        columns[:, 2].astype(np.int64),
        tuple(blocks),
        block_tokens,
    )


def poisson(n: int, rate: float, seed: int = 1, prompt: int = 400, output: int = 60) -> Workload:
    """Poisson arrivals with lengths around the given ones."""
    chance = random.Random(seed)
    at_s, rows = 0.0, []
    for _ in range(n):
        at_s += chance.expovariate(rate)
        rows.append((at_s, chance.randint(1, 2 * prompt), chance.randint(1, 2 * output)))
    return workload(rows)


def node_device(
    name: str = "standard",
    *,
    slots: int = 4,
    cold_start_s: float = 60.0,
    max_nodes: int = 20,
    price: int = 3_600_000,
    lifetime_s: float = math.inf,
    cache_blocks: int = 0,
    requests_per_s: float = 2.0,
    rates: Rates = RATES,
) -> Device:
    facts = ClassFacts(
        name,
        price,
        slots,
        requests_per_s,
        cold_start_s,
        max_nodes,
        lifetime_s != math.inf,
        0.5,
        rates.token_s(1),
        rates.token_s(slots),
    )
    return Device(facts, rates, lifetime_s, cache_blocks)
