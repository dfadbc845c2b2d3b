"""Devices of a simulation, described to policies as a gateway would have measured them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gainshare.capacity.policies.observed import ClassFacts, Objective
from gainshare.capacity.simulation.pool import Device
from gainshare.capacity.simulation.rates import Rates
from gainshare.capacity.simulation.workload import Workload

MEASURED_REQUESTS = 20_000
QUANTILES = 400
#: Where prompts alone take longer than promised, no fleet keeps the promise: then this many times what they take.
ABOVE_ALONE = 1.25


def device(
    workload: Workload,
    rates: Rates,
    *,
    name: str,
    price: int,
    slots: int,
    cold_start_s: float,
    max_nodes: int,
    lifetime_s: float = math.inf,
    cache_blocks: int = 0,
    promised_token_s: float = 0.1,
) -> Device:
    """A device with what a node of it does with the workload's requests when it is alone, and with all slots used.

    One whose nodes live only ``lifetime_s`` seconds on average is preemptible.
    """
    sample = slice(None, None, max(1, len(workload.at_s) // MEASURED_REQUESTS))
    prompts, outputs = workload.prompt_tokens[sample], workload.output_tokens[sample]
    read_s = prompts * rates.prompt_token_s + 0.5 * prompts.astype(float) ** 2 * rates.prompt_pair_s
    steps = np.ceil(prompts / rates.step_tokens)
    alone_s = read_s + steps * rates.token_s(0)
    # Answers get tokens also while a prompt is read: only the other steps are for them alone.
    mean_s = float(np.mean(alone_s))
    each_s = mean_s + float(np.mean(outputs)) * rates.token_s(slots) / slots
    promised_s = max(promised_token_s, ABOVE_ALONE * rates.token_s(1))
    facts = ClassFacts(
        name,
        price,
        slots,
        1 / each_s,
        cold_start_s,
        max_nodes,
        lifetime_s != math.inf,
        float(np.percentile(alone_s, 99)),
        rates.token_s(1),
        rates.token_s(slots),
        mean_s,
        float(np.var(alone_s)) / mean_s**2,
        mean_s + float(np.mean(outputs)) * rates.token_s(1),
        _held_up_share(alone_s, outputs, promised_s - rates.token_s(1)),
    )
    return Device(facts, rates, lifetime_s, cache_blocks)


def _held_up_share(
    read_s: npt.NDArray[np.float64], outputs: npt.NDArray[np.int64], allowed_s: float
) -> float:
    """Share of answers whose tokens take over ``allowed_s`` more each where another prompt is read meanwhile.

    Over all pairs of a prompt and an answer, each by QUANTILES quantiles.
    """
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    reading, tokens = np.quantile(read_s, middles), np.quantile(outputs, middles) - 1
    is_slow = (reading[:, None] > allowed_s * tokens[None, :]) & (tokens > 0)[None, :]
    return float(np.mean(is_slow))


def reachable(objective: Objective, *facts: ClassFacts) -> Objective:
    """The objective, or what the fastest class reaches on idle nodes with a quarter more, where that is longer."""
    first = min(one.first_token_s for one in facts)
    token = min(one.token_alone_s for one in facts)
    return Objective(
        max(objective.first_token_p99_s, round(ABOVE_ALONE * first, 1)),
        max(objective.token_p99_s, round(ABOVE_ALONE * token, 3)),
    )
