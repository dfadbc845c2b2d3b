"""Workloads, rates, rooflines, quartiles, regrets and targets: what figures are made of, without an engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import rates, roofline, targets, workloads
from benchmarks.peers.drivers.record import Record
from benchmarks.peers.models import QWEN3_MOE_22M, QWEN3_MOE_186M
from benchmarks.peers.outputs import Regrets, output_row
from benchmarks.peers.quartiles import Quartiles, ratios
from benchmarks.peers.workloads import Request, Workload
from model.config import LatentConfig

MS = 1_000_000
VOCABULARY = 49_152


def answer(*requests: tuple[int, list[int]]) -> dict[str, Any]:
    """Requests as (submitted, times of tokens), in milliseconds."""
    return {
        "requests": [
            {
                "submitted_ns": submitted * MS,
                "times_ns": [at * MS for at in times],
                "tokens": list(range(len(times))),
            }
            for submitted, times in requests
        ]
    }


def test_the_models_are_of_the_sizes_they_are_named_for() -> None:
    assert (
        round(QWEN3_MOE_186M.total_parameters / 1e6),
        round(QWEN3_MOE_186M.active_parameters / 1e6),
    ) == (
        186,
        54,
    )
    assert (
        round(QWEN3_MOE_22M.total_parameters / 1e6),
        round(QWEN3_MOE_22M.active_parameters / 1e6),
    ) == (22, 6)


@pytest.mark.parametrize("name", workloads.NAMES)
def test_a_workload_is_the_same_for_all_of_a_round_and_new_in_the_next(name: str) -> None:
    first = workloads.draw(name, VOCABULARY, "model 1")
    assert first == workloads.draw(name, VOCABULARY, "model 1")
    second = workloads.draw(name, VOCABULARY, "model 2")
    assert {request.prompt for request in first.requests}.isdisjoint(
        request.prompt for request in second.requests
    )
    for request in first.requests:
        assert len(request.prompt) + request.n_new <= workloads.MAX_TOKENS
        assert all(workloads.FIRST_ID <= token < VOCABULARY for token in request.prompt)
    assert len(first.requests) <= workloads.LARGEST_BATCH


def test_batches_have_mixed_lengths_and_late_arrivals() -> None:
    requests = workloads.draw("decode B16", VOCABULARY, "x").requests
    assert len({len(request.prompt) for request in requests}) > 4
    assert len({request.n_new for request in requests}) > 2
    assert [request.after for request in requests] == [0] * 12 + [16, 32, 48, 64]


def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    miss, hit = workloads.shared_prefix(VOCABULARY, "x", prefix=100, own=8)
    (first,), (second,) = miss.requests, hit.requests
    assert first.prompt[:100] == second.prompt[:100]
    assert first.prompt[100:] != second.prompt[100:]
    assert len(second.prompt) == 108


def test_a_request_that_could_never_arrive_is_refused() -> None:
    with pytest.raises(ValueError, match="waits for token 5 of 4"):
        Workload("w", (Request((1,), n_new=4), Request((1,), n_new=4, after=5)))


def test_a_record_lets_requests_arrive_with_the_tokens_before_them() -> None:
    record = Record(
        Workload("w", (Request((1,), 2), Request((1,), 3, after=1), Request((1,), 1, after=5))).to_json()
    )
    assert [number for number, _ in record.arrived()] == [0]
    assert record.arrived() == []
    assert not record.token(0, 7, 10)
    assert [number for number, _ in record.arrived()] == [1]
    assert record.token(0, 8, 20)
    assert record.token(0, 9, 30)  # beyond what was wanted: not counted
    assert record.count(0) == 2
    with pytest.raises(RuntimeError, match="stopped after 2 tokens"):
        record.answer()
    for at in (40, 50, 60):
        record.token(1, at, at)
    assert [number for number, _ in record.arrived()] == [2]
    record.token(2, 5, 70)
    assert record.is_done
    answers = record.answer()["requests"]
    assert [each["tokens"] for each in answers] == [[7, 8], [40, 50, 60], [5]]
    assert answers[1]["times_ns"] == [40, 50, 60]


def test_prompts_count_up_to_the_first_token() -> None:
    assert rates.prefill_rate(answer((100, [350])), 512) == pytest.approx(512 / 0.25)


def test_decoding_counts_only_while_all_are_at_it() -> None:
    steps = list(range(100, 1000, 100))
    alone = answer((0, steps))
    assert rates.decode_rate(alone) == pytest.approx(10)
    # The second one arrives late and the first one ends early: three steps of both between.
    both = answer((0, [100, 200, 300, 400, 500, 600]), (250, [300, 400, 500, 600, 700]))
    assert rates.decode_rate(both) == pytest.approx(6 / 0.3)
    assert rates.whole_rate(both) == pytest.approx(11 / 0.7)
    with pytest.raises(ValueError, match="never all decoding"):
        rates.decode_rate(answer((0, [100, 200]), (0, [200, 300])))


def test_the_mean_context_is_half_way_through_the_answer() -> None:
    assert rates.mean_context(answer((0, [1, 2, 3, 4]), (0, [1, 2])), [10, 20]) == pytest.approx(
        (12 + 21) / 2
    )


def test_a_prompt_needs_the_head_once_and_attention_for_each_pair() -> None:
    config = QWEN3_MOE_22M
    head = config.vocab_size * config.d_model
    one, two = roofline.prefill_flops(config, 1), roofline.prefill_flops(config, 2)
    per_pair = config.n_layers * config.n_heads * config.d_head * 2 * 2
    assert one == 2 * config.active_parameters + per_pair
    assert two - one == 2 * (config.active_parameters - head) + 2 * per_pair


def test_a_training_step_is_six_operations_a_parameter_and_token() -> None:
    config = QWEN3_MOE_186M
    rows = roofline.training_flops(config, 3, 64)
    pairs = 3 * 64 * 65 // 2
    attention = 6 * config.n_layers * config.n_heads * config.d_head * 2 * pairs
    assert rows == 6 * config.active_parameters * 3 * 64 + attention


def test_a_decode_step_reads_the_active_weights_and_the_cache() -> None:
    config = QWEN3_MOE_186M
    assert roofline.weights_read(config, "bf16") == 2 * config.active_parameters
    assert roofline.weights_read(config, "f16") == roofline.weights_read(config, "bf16")
    assert roofline.weights_read(config, "fp32") == 4 * config.active_parameters
    assert roofline.weights_read(config, "int8-dynamic") == config.active_parameters
    head = config.vocab_size * config.d_model  # of 8 bits in int4 too
    assert roofline.weights_read(config, "int4") == 0.625 * (config.active_parameters - head) + head
    assert roofline.weights_read(config, "q8_0") == pytest.approx(1.0625 * config.active_parameters)
    untied = dataclasses.replace(config, tie_embeddings=False)
    assert roofline.weights_read(untied, "int8") == roofline.weights_read(config, "int8")
    assert roofline.cache_read(config, 100) == 2 * 6 * 8 * 64 * 100 * 2
    latent = dataclasses.replace(
        config, qk_norm="none", latent=LatentConfig(kv_rank=8, d_nope=8, d_rope=4, d_value=8)
    )
    with pytest.raises(ValueError, match="latent attention"):
        roofline.cache_read(latent, 100)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=40))
def test_quartiles_lie_around_the_median_and_occurred(values: list[float]) -> None:
    found = Quartiles.of(values)
    assert found.low <= found.median <= found.high
    assert {found.low, found.high} <= set(values)
    assert found.n == len(values)


def test_a_quarter_of_the_turns_lies_outside_each_quartile() -> None:
    found = [Quartiles.of(range(n)) for n in (3, 4, 8, 9)]
    assert [(each.low, each.high) for each in found] == [(0, 2), (1, 2), (2, 5), (2, 6)]


def test_quartiles_say_how_many_turns_there_were() -> None:
    assert Quartiles.of([3.0, 1.0, 2.0, 4.0]).text("x") == "2.5 x (2 to 3, 4 turns)"
    assert Quartiles.of([1234.4]).text() == "1234 (one turn)"
    with pytest.raises(ValueError, match="at least one"):
        Quartiles.of([])


def test_ratios_are_paired() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]).median == pytest.approx(2.5)
    with pytest.raises(ValueError, match="paired"):
        ratios([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="zero"):
        ratios([1.0], [0.0])


def test_regrets_hold_a_side_to_the_model() -> None:
    right = Regrets.of([[0.0, 0.0], [0.02, 0.0]])
    assert (right.n_tokens, right.n_best) == (4, 3)
    row = output_row("ours bf16", "m", "bf16", right)
    assert row.holds
    assert row.value == 0.005
    assert "3 are its own choice" in row.how
    assert not output_row("ours fp32", "m", "fp32", right).holds
    one_other_expert = Regrets.of([[0.0] * 99, [0.7]])
    assert output_row("other", "m", "bf16", one_other_expert).holds
    assert not output_row("other", "m", "int8", Regrets.of([[0.0, 3.5]])).holds
    with pytest.raises(ValueError, match="no token"):
        Regrets.of([[]])


def test_a_ratio_is_held_to_its_own_factor() -> None:
    measured = {"ours bf16": [260.0, 250.0], "vllm bf16": [100.0, 100.0], "llama.cpp f16": [250.0, 240.0]}

    def row(engine: str, peer: str, workload: str) -> Any:
        return targets.ratio_row(
            workload=workload, model="m", ours="ours bf16", engine=engine, peer=peer, rates=measured
        )

    assert row("vllm", "vllm bf16", "decode B1").holds
    assert not row("llama.cpp", "llama.cpp f16", "decode B1").holds
    ahead = row("llama.cpp", "llama.cpp f16", "prefill 512")
    assert ahead.holds
    assert ahead.target == "> 1x"


def test_a_peer_is_met_in_its_best_format() -> None:
    measured = {"f16": [3.0, 1.0, 3.0], "bf16": [2.0, 2.0, 2.0]}
    assert targets.best_peer(["f16", "bf16"], measured) == "f16"


def test_shares_are_held_from_below_and_from_above() -> None:
    share = Quartiles.of([0.7, 0.8, 0.76])
    assert targets.share_row("s", share, 0.75, "how").holds
    assert targets.share_row("s", share, None, "how").holds is None
    assert not targets.below_row("s", share, 0.2, "how").holds
