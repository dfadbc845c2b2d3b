"""Estimated time to first token of a request on each node: queue, prefill left, prefix hit, measured rates. Pure.

Nothing here comes from a node's own claims: seats are the gateway's, and rates are what it measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from gainshare.capacity.routing.rates import Rates

# Where nothing was measured yet: slow enough that a measured node of any kind is not left for a guess.
UNKNOWN = Rates(prefill_tokens_per_s=500.0, decode_tokens_per_s=10.0)
# Work of a request in addition to its prompt, in tokens of prefill: otherwise the rate that short prompts show, whose time
# is that of the network and of one step, would make a long prompt look endless.
BASE_TOKENS = 128
MEASURED_ERROR = 0.25  # share of an estimate from measured rates that may be wrong
UNKNOWN_ERROR = 0.5
LEAST_ERROR_S = 0.01  # of the network and the event loop
FASTER_THAN_CLASS = 1.25  # a node's rate counts up to this multiple of its class's
LEAST_FIGURE, MOST_FIGURE = 1e-3, 1e12  # of rates and seconds; others, and NaN, count as unknown
PRIOR_S = 1.0  # measured time at which a node's own rate counts as much as its class's


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that may get the request. `running` are its seats, `prefill_left` their prompt tokens without first token.

    `output_left` are the tokens that its seats are expected to generate.
    """

    key: str
    slots: int
    running: int = 0
    prefill_left: int = 0
    output_left: int = 0
    rates: Rates = UNKNOWN
    is_measured: bool = False
    device_class: str = ""
    price: int = 0
    is_preemptible: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time to first token on one node, in seconds; the true one is taken to be within `error_s` of it."""

    key: str
    first_token_s: float
    error_s: float


def estimate(node: NodeFacts, *, prompt_tokens: int, hit_tokens: int = 0) -> Estimate:
    """Estimate the time to first token of a prompt of which `hit_tokens` are expected in the node's prefix cache."""
    prefill = _rate(node.rates.prefill_tokens_per_s, UNKNOWN.prefill_tokens_per_s)
    fresh = max(prompt_tokens - min(max(hit_tokens, 0), prompt_tokens), 0)
    seconds = slot_wait_s(node) + work_tokens(node.prefill_left, fresh) / prefill
    error = (MEASURED_ERROR if node.is_measured else UNKNOWN_ERROR) * seconds + LEAST_ERROR_S
    return Estimate(node.key, seconds, error)


def work_tokens(prefill_left: int, fresh_tokens: int) -> int:
    """Work of a node until a request's first token, in tokens of prefill. Rates are measured in the same unit."""
    return max(prefill_left, 0) + max(fresh_tokens, 0) + BASE_TOKENS


def slot_wait_s(node: NodeFacts) -> float:
    """Expected time until a slot of `node` is free for one more request, in seconds."""
    if node.running < node.slots:
        return 0.0
    decode = _rate(node.rates.decode_tokens_per_s, UNKNOWN.decode_tokens_per_s)
    mean_left = max(node.output_left, 0) / max(node.running, 1) / 2  # on average half of it is still to come
    return mean_left / decode * (node.running - node.slots + 1) / max(node.slots, 1)


def bounded_rates(own: Rates, of_class: Rates, measured_s: float) -> Rates:
    """A node's rates, mixed with its class's while little was measured, and never far above them.

    The upper bound keeps a node that answers at once with garbage from attracting the traffic.
    """
    return Rates(
        _bounded(own.prefill_tokens_per_s, of_class.prefill_tokens_per_s, measured_s),
        _bounded(own.decode_tokens_per_s, of_class.decode_tokens_per_s, measured_s),
        _bounded(own.requests_per_s, of_class.requests_per_s, measured_s),
    )


def _bounded(own: float, of_class: float, measured_s: float) -> float:
    own, of_class = _known(own), _known(of_class)
    if not own or not of_class:
        return own or of_class
    weight = _known(measured_s) / (_known(measured_s) + PRIOR_S)
    # Times are mixed, not rates: a node that needs five times as long is seen at once.
    mixed = 1 / (weight / own + (1 - weight) / of_class)
    return min(mixed, FASTER_THAN_CLASS * of_class)


def _known(value: float) -> float:
    """`value`, or 0 if it is no usable figure."""
    return value if LEAST_FIGURE <= value <= MOST_FIGURE else 0.0


def _rate(value: float, otherwise: float) -> float:
    return _known(value) or otherwise
