"""Metrics of a node for Prometheus: requests, answers, usage, and the state of the engine at the scrape.

Names begin with `gainshare_node_`; docs/reference/node.md lists them. No label names a person.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model.serving.api.errors import ApiError
from model.serving.node.backend import Piece, Running
from model.serving.node.host import Host

PREFIX = "gainshare_node_"
CONTENT_TYPE = CONTENT_TYPE_LATEST
FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# Counter of a backend (`Backend.stats`) -> help text of its metric. Nanoseconds are shown as seconds.
GAUGES = {
    "running": "Sequences that take part in steps.",
    "waiting": "Requests in the queue.",
    "kv_blocks": "Blocks of the key/value cache.",
    "kv_blocks_held": "Blocks that running sequences hold.",
    "kv_blocks_idle": "Blocks kept for the prefix cache alone.",
}
COUNTERS = {
    "busy_ns": "Time the device spent in steps.",
    "scheduling_ns": "Time of scheduling the steps.",
    "steps": "Steps of the engine.",
    "preemptions": "Preemptions: sequences that released their blocks and were computed again.",
    "kv_blocks_evicted": "Blocks of the prefix cache that were evicted.",
    "drafted_tokens": "Draft tokens of speculation.",
    "accepted_tokens": "Accepted draft tokens: plain decoding would have drawn them too.",
    "miscounted": "Answers whose upstream counted another number of tokens than this node.",
}


class NodeMetrics:
    """Counts requests when they end, and collects the host's metrics at each scrape."""

    def __init__(self, host: Host) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each is of no use
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}requests",
            "Requests that began, by how they ended.",
            ["endpoint", "end"],
            registry=registry,
        )
        self._refused = Counter(
            f"{PREFIX}refusals", "Answers with an error, by its code.", ["code"], registry=registry
        )
        self._answers = Counter(
            f"{PREFIX}answers", "Complete answers, by what ended them.", ["finish"], registry=registry
        )
        self._prompt = Counter(
            f"{PREFIX}prompt_tokens", "Tokens of prompts, cached ones included.", registry=registry
        )
        self._cached = Counter(
            f"{PREFIX}cached_tokens", "Tokens of prompts from the prefix cache.", registry=registry
        )
        self._completion = Counter(f"{PREFIX}completion_tokens", "Tokens generated.", registry=registry)
        self._first = Histogram(
            f"{PREFIX}first_token_seconds",
            "From acceptance to the first token.",
            buckets=SLOW_S,
            registry=registry,
        )
        self._between = Histogram(
            f"{PREFIX}token_seconds",
            "Mean time per further token, by answer.",
            buckets=FAST_S,
            registry=registry,
        )
        registry.register(HostCollector(host))
        ProcessCollector(registry=registry)

    def watch(self, endpoint: str, running: Running) -> Running:
        """`running`, counted when it ends."""
        return _Watched(self, endpoint, running)

    def left(self, endpoint: str) -> None:
        """Count a client that disconnected before its request was accepted."""
        self._requests.labels(endpoint, "cancelled").inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def ended(self, request: _Watched) -> None:
        self._requests.labels(request.endpoint, request.end).inc()
        if request.last is None:
            return
        usage = request.last.usage.to_openai()
        self._prompt.inc(usage["prompt_tokens"])
        self._cached.inc(usage["prompt_tokens_details"]["cached_tokens"])
        self._completion.inc(usage["completion_tokens"])
        self._first.observe(request.first_at - request.started_at)
        further = usage["completion_tokens"] - 1
        if further > 0:
            self._between.observe((request.last_at - request.first_at) / further)

    def finished(self, finish: str) -> None:
        self._answers.labels(finish).inc()

    def render(self) -> bytes:
        """The text format, as CONTENT_TYPE names its version."""
        return generate_latest(self._registry)


class _Watched:
    """A running request that is counted when it ends."""

    def __init__(self, metrics: NodeMetrics, endpoint: str, running: Running) -> None:
        self._metrics, self.endpoint, self._running = metrics, endpoint, running
        self.started_at = self.first_at = self.last_at = time.monotonic()
        self.last: Piece | None = None
        self.end = "cancelled"
        self._is_counted = False

    async def pieces(self) -> AsyncIterator[Piece]:
        try:
            async for piece in self._running.pieces():
                self.last_at = time.monotonic()
                if self.last is None:
                    self.first_at = self.last_at
                self.last = piece
                if piece.finish is not None:
                    self._metrics.finished(piece.finish)
                yield piece
            self.end = "completed"
        except ApiError:
            self.end = "failed"
            raise

    def cancel(self) -> None:
        self._running.cancel()
        if not self._is_counted:
            self._is_counted = True
            self._metrics.ended(self)


class HostCollector(Collector):
    """Collects the state of a node and its engine at a scrape."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        host = self._host
        yield GaugeMetricFamily(f"{PREFIX}draining", "1 while the node ends.", value=host.is_draining)
        yield CounterMetricFamily(f"{PREFIX}swaps", "Models swapped in.", value=host.n_swaps)
        deployment = host.deployment
        if deployment is None:
            return
        yield GaugeMetricFamily(
            f"{PREFIX}answering", "Requests being answered.", value=deployment.n_answering
        )
        stats = deployment.backend.stats()
        for name in stats.keys() & GAUGES.keys():
            yield GaugeMetricFamily(PREFIX + name, GAUGES[name], value=stats[name])
        for name in stats.keys() & COUNTERS.keys():
            shown, value = (
                (f"{name[:-3]}_seconds", stats[name] / 1e9) if name.endswith("_ns") else (name, stats[name])
            )
            yield CounterMetricFamily(PREFIX + shown, COUNTERS[name], value=value)
        yield from deployment.backend.collect()
