"""What only the bundled engine can show: how long steps take, and which experts they use. For Prometheus.

Step times are counted on the engine's thread, expert load in every `SAMPLE_EVERY`-th step; both cost far less than a
step. Knows nothing of requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import torch
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from torch import nn

from model.layers.moe import MoELayer
from model.layers.router import Routing, expert_load
from model.serving.stats import StepReport
from model.transformer import Transformer

PREFIX = "gainshare_node_"
STEP_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SAMPLE_EVERY = 32
MAX_SERIES = 4096  # one series per expert up to here; the evenness of each layer is always shown


class StepTimes:
    """A histogram that one thread fills and others read; a reading may miss the step of this moment."""

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


class ExpertLoadSampler:
    """Counts, in some steps, how many (token, choice) pairs each expert of each layer gets.

    It listens to the routers, so it sees what runs through `Transformer`; executors that compute routing themselves
    do not show here.
    """

    def __init__(self, transformer: Transformer, every: int = SAMPLE_EVERY) -> None:
        self._every, self._n_steps = every, 0
        self.n_sampled = 0
        layers = [module for module in transformer.modules() if isinstance(module, MoELayer)]
        self._load_LE = [torch.zeros(layer.config.n_experts, dtype=torch.int64) for layer in layers]
        self._handles = [
            layer.router.register_forward_hook(self._hook(i, layer.config.n_experts))
            for i, layer in enumerate(layers)
        ]

    def _hook(self, layer: int, n_experts: int) -> Callable[[nn.Module, object, Routing], None]:
        def count(_: nn.Module, __: object, routing: Routing) -> None:
            if layer == 0:
                self._n_steps += 1
                self.n_sampled += self._is_sampled
            if self._is_sampled:
                self._load_LE[layer] += expert_load(routing[1], n_experts).cpu()

        return count

    @property
    def _is_sampled(self) -> bool:
        return self._n_steps % self._every == 1 % self._every

    def load(self) -> list[list[int]]:
        """Pairs per expert of each MoE layer, from the first on, in the sampled steps."""
        return [load_E.tolist() for load_E in self._load_LE]

    def collect(self) -> Iterator[Metric]:
        load = self.load()
        if not load:
            return
        yield CounterMetricFamily(
            f"{PREFIX}expert_sampled_steps",
            f"Steps whose routing was counted, one in {self._every}.",
            value=self.n_sampled,
        )
        uneven = GaugeMetricFamily(
            f"{PREFIX}expert_load_max_over_mean",
            "Load of a layer's busiest expert over the mean; 1 is even.",
            labels=["layer"],
        )
        for layer, counts in enumerate(load):
            uneven.add_metric([str(layer)], max(counts) * len(counts) / max(sum(counts), 1))
        yield uneven
        if sum(map(len, load)) <= MAX_SERIES:
            yield self._per_expert(load)

    def _per_expert(self, load: list[list[int]]) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}expert_tokens",
            "(Token, choice) pairs per expert in the sampled steps.",
            labels=["layer", "expert"],
        )
        for layer, counts in enumerate(load):
            for expert, count in enumerate(counts):
                family.add_metric([str(layer), str(expert)], count)
        return family

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
