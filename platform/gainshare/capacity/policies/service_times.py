"""How a node serves a model's requests one by one, as policies are told. Pure: for the simulation and the control loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gainshare.capacity.policies.observed import ClassFacts, Objective

QUANTILES = 400
TINY_S = 1e-9
#: Where prompts alone take longer than promised, no fleet keeps the promise: then this many times what they take.
ABOVE_ALONE = 1.25


@dataclass(frozen=True)
class ServiceTimes:
    """A sample of requests on one node: each prompt's time on an idle node, its steps, and each answer's tokens.

    All three have the shape [n], n > 0. ``token_alone_s`` is the time for each token with one slot used,
    ``token_full_s`` with all of them; 0 where it is not known.
    """

    read_s: npt.NDArray[np.float64]
    read_steps: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.int64]
    token_alone_s: float
    token_full_s: float


def described(facts: ClassFacts, times: ServiceTimes, promised_token_s: float) -> ClassFacts:
    """The class with what these times say of it."""
    mean_s = float(np.mean(times.read_s))
    promised_s = max(promised_token_s, ABOVE_ALONE * times.token_alone_s)
    return replace(
        facts,
        first_token_s=float(np.percentile(times.read_s, 99)),
        token_alone_s=times.token_alone_s,
        token_full_s=times.token_full_s,
        read_s=mean_s,
        read_spread=float(np.var(times.read_s)) / mean_s**2,
        alone_s=mean_s + float(np.mean(times.outputs)) * times.token_alone_s,
        held_up_share=_held_up_share(times, promised_s),
    )


def reachable(objective: Objective, *facts: ClassFacts) -> Objective:
    """The objective, or what the fastest class reaches on idle nodes with a quarter more, where that is longer.

    Classes whose times are not known say nothing.
    """
    first = min((one.first_token_s for one in facts if one.first_token_s > 0), default=0.0)
    token = min((one.token_alone_s for one in facts if one.token_alone_s > 0), default=0.0)
    return replace(
        objective,
        first_token_p99_s=max(objective.first_token_p99_s, round(ABOVE_ALONE * first, 1)),
        token_p99_s=max(objective.token_p99_s, round(ABOVE_ALONE * token, 3)),
    )


def _held_up_share(times: ServiceTimes, promised_s: float) -> float:
    """Share of answers whose tokens take over ``promised_s`` each where another prompt is read meanwhile.

    Over all pairs of a prompt and an answer, each by QUANTILES quantiles. Where prompts take longer to be read than answers
    to be written, most of those that meet come while another one is read: then the reading begins with the other one's
    answer, which gets a token at each of its steps.
    """
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    tokens = np.quantile(times.outputs, middles)[None, :] - 1
    steps = np.quantile(times.read_steps, middles)[:, None]
    step_s = np.quantile(times.read_s, middles)[:, None] / steps
    # So much of an answer's tokens must be read slowly until it is slow in all.
    share = (promised_s - times.token_alone_s) / np.maximum(step_s - times.token_alone_s, TINY_S)
    is_slow = (share < 1) & (steps > share * tokens) & (tokens > 0)
    return float(np.mean(is_slow))
