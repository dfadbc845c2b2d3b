"""Metrics of the bundled engine alone, for Prometheus: duration of steps, and expert load.

Step times are counted on the engine's thread, which costs far less than a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from model.serving.engine.expert_load import ExpertLoad
from model.serving.engine.stats import StepReport

PREFIX = "gainshare_node_"
STEP_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MAX_SERIES = 4096  # at most so many series per expert; each layer's load balance is always shown


class StepTimes:
    """Histogram of step times that one thread fills and others read; a reading may miss the current step."""

    def __init__(self, bounds_s: Sequence[float] = STEP_S) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def observe(self, step: StepReport) -> None:
        duration_s = step.duration_ns / 1e9
        self._counts[bisect_left(self._bounds_s, duration_s)] += 1
        self._sum_s += duration_s

    def collect(self) -> Metric:
        buckets, n_so_far = [], 0
        for bound, count in zip((*self._bounds_s, float("inf")), list(self._counts), strict=True):
            n_so_far += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", n_so_far))
        return HistogramMetricFamily(
            f"{PREFIX}step_seconds", "Duration of the engine's steps.", buckets=buckets, sum_value=self._sum_s
        )


def expert_metrics(experts: ExpertLoad) -> Iterator[Metric]:
    """Expert metrics; none of a dense model, and no load balance before a step was counted."""
    load = experts.load()
    if not load:
        return
    yield CounterMetricFamily(
        f"{PREFIX}expert_sampled_steps",
        f"Steps whose routing was counted, one in {experts.every}.",
        value=experts.n_counted,
    )
    if not experts.n_counted:
        return
    uneven = GaugeMetricFamily(
        f"{PREFIX}expert_load_max_over_mean",
        "Load of a layer's busiest expert over the mean; 1 is even.",
        labels=["layer"],
    )
    for layer, counts in enumerate(load):
        uneven.add_metric([str(layer)], max(counts) * len(counts) / max(sum(counts), 1))
    yield uneven
    if sum(map(len, load)) <= MAX_SERIES:
        yield _per_expert(load)


def _per_expert(load: list[list[int]]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}expert_tokens",
        "(Token, choice) pairs per expert in the sampled steps.",
        labels=["layer", "expert"],
    )
    for layer, counts in enumerate(load):
        for expert, count in enumerate(counts):
            family.add_metric([str(layer), str(expert)], count)
    return family
