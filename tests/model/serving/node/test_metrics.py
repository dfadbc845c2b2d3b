"""What a node shows to Prometheus. No HTTP; the routers listened to are those of a real tiny MoE."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from model.config import MoEConfig
from model.serving.api.errors import ApiError
from model.serving.engine.expert_load import RouterListener
from model.serving.engine.stats import StepReport
from model.serving.node.engine_metrics import StepTimes, expert_metrics
from model.serving.node.host import Host
from model.serving.node.metrics import NodeMetrics
from model.transformer import Transformer
from tests.model.random_models import SMALL
from tests.model.serving.node.scripted_backend import ScriptedBackend, ask


def samples(text: bytes) -> dict[str, float]:
    """Sample with its labels -> value."""
    shown = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            shown[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return shown


async def watched(n_tokens: int = 3) -> tuple[NodeMetrics, Host, ScriptedBackend]:
    backend = ScriptedBackend(n_tokens=n_tokens)
    host = Host(lambda *_: backend, drain_s=1, on_failure=lambda: None)
    await host.start()
    return NodeMetrics(host), host, backend


async def test_a_complete_answer_is_counted_with_its_tokens() -> None:
    metrics, host, backend = await watched()
    backend.gate.set()
    running = metrics.watch("chat", await host.accepting().start(ask()))
    assert len([piece async for piece in running.pieces()]) == 3
    running.cancel()
    running.cancel()
    shown = samples(metrics.render())
    assert shown["gainshare_node_requests_total{end=completed,endpoint=chat}"] == 1
    assert shown["gainshare_node_answers_total{finish=length}"] == 1
    assert shown["gainshare_node_prompt_tokens_total"] == 3
    assert shown["gainshare_node_cached_tokens_total"] == 2
    assert shown["gainshare_node_completion_tokens_total"] == 3
    assert shown["gainshare_node_first_token_seconds_count"] == 1
    assert shown["gainshare_node_token_seconds_count"] == 1


async def test_clients_that_leave_and_answers_that_fail_are_told_apart() -> None:
    metrics, host, backend = await watched()
    left = metrics.watch("chat", await host.accepting().start(ask()))
    pieces = left.pieces()
    await anext(pieces)
    left.cancel()
    broken = metrics.watch("completion", await host.accepting().start(ask()))
    await backend.stop()
    with pytest.raises(ApiError):
        [piece async for piece in broken.pieces()]
    broken.cancel()
    never_read = metrics.watch("chat", await host.accepting().start(ask()))
    never_read.cancel()
    shown = samples(metrics.render())
    assert shown["gainshare_node_requests_total{end=cancelled,endpoint=chat}"] == 2
    assert shown["gainshare_node_requests_total{end=failed,endpoint=completion}"] == 1
    assert shown["gainshare_node_completion_tokens_total"] == 2, "tokens of broken answers were computed too"
    assert backend.cancelled == 3


async def test_the_state_of_the_host_and_its_engine_is_read_at_the_scrape() -> None:
    metrics, host, backend = await watched()
    metrics.refused("queue_full")
    shown = samples(metrics.render())
    assert shown["gainshare_node_running"] == 1 and shown["gainshare_node_waiting"] == 2
    assert (shown["gainshare_node_kv_blocks"], shown["gainshare_node_kv_blocks_held"]) == (10, 4)
    assert shown["gainshare_node_busy_seconds_total"] == 1.5
    assert shown["gainshare_node_refusals_total{code=queue_full}"] == 1
    assert (shown["gainshare_node_draining"], shown["gainshare_node_answering"]) == (0, 0)
    assert shown["process_resident_memory_bytes"] > 1e6
    backend.gate.set()
    await asyncio.gather(host.drain())
    assert samples(metrics.render())["gainshare_node_draining"] == 1


def test_a_node_without_a_model_can_be_scraped() -> None:
    host = Host(lambda *_: ScriptedBackend(), drain_s=1, on_failure=lambda: None)
    assert "gainshare_node_running" not in samples(NodeMetrics(host).render())


def test_step_times_fall_into_buckets_that_add_up() -> None:
    times = StepTimes((0.001, 0.01))
    for duration_ns in (500_000, 1_000_000, 2_000_000, 5_000_000_000):
        times.observe(StepReport(duration_ns, 0, 1, 1))
    family = times.collect()
    buckets = {
        sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")
    }
    assert buckets == {"0.001": 2, "0.01": 3, "+Inf": 4}
    assert {s.name: s.value for s in family.samples}["gainshare_node_step_seconds_sum"] == pytest.approx(
        5.0035
    )


MOE = MoEConfig(d_model=SMALL.d_model, d_expert=16, n_experts=6, top_k=2)


def test_expert_load_is_sampled_in_some_steps_and_counts_every_choice() -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, moe=MOE)).eval()
    listener = RouterListener(model, every=3)
    tokens = torch.randint(SMALL.vocab_size, (2, 5))
    with torch.no_grad():
        before = model(tokens)
        for _ in range(6):
            assert torch.equal(model(tokens), before), "listening changes nothing"
    load = listener.load()
    assert listener.n_counted == 3  # of seven passes
    assert len(load) == 2 and all(sum(counts) == 3 * 10 * MOE.top_k for counts in load)
    families = {family.name: family for family in expert_metrics(listener)}
    uneven = families["gainshare_node_expert_load_max_over_mean"].samples
    assert [sample.labels["layer"] for sample in uneven] == [str(i) for i in range(len(load))]
    assert all(1 <= sample.value <= MOE.n_experts / MOE.top_k + 1e-9 for sample in uneven)
    assert len(families["gainshare_node_expert_tokens"].samples) == sum(map(len, load))
    listener.close()
    model(tokens)
    assert listener.load() == load


def test_before_the_first_step_nothing_is_said_of_evenness() -> None:
    listener = RouterListener(Transformer(replace(SMALL, moe=MOE)))
    assert [family.name for family in expert_metrics(listener)] == ["gainshare_node_expert_sampled_steps"]


def test_a_dense_model_has_no_expert_load() -> None:
    assert list(expert_metrics(RouterListener(Transformer(SMALL)))) == []
