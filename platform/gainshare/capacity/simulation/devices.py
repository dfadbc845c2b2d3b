"""Devices of a simulation, described to policies as a gateway would have measured them."""

from __future__ import annotations

import math

import numpy as np

from gainshare.capacity.policies.observed import ClassFacts
from gainshare.capacity.policies.service_times import ServiceTimes, described
from gainshare.capacity.simulation.pool import Device
from gainshare.capacity.simulation.rates import Rates
from gainshare.capacity.simulation.workload import Workload

MEASURED_REQUESTS = 20_000


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
    steps = np.ceil(prompts / rates.step_tokens).astype(np.int64)
    alone_s = read_s + steps * rates.token_s(0)
    # Answers get tokens also while a prompt is read: only the other steps are for them alone.
    mean_s = float(np.mean(alone_s))
    each_s = mean_s + float(np.mean(outputs)) * rates.token_s(slots) / slots
    unserved = ClassFacts(
        name, price, slots, 1 / each_s, cold_start_s, max_nodes, is_preemptible=lifetime_s != math.inf
    )
    times = ServiceTimes(alone_s, steps, outputs, rates.token_s(1), rates.token_s(slots))
    facts = described(unserved, times, promised_token_s)
    return Device(facts, rates, lifetime_s, cache_blocks)
