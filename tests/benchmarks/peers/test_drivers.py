"""The drivers themselves, on a small model: both sides of a training step are equal, and the reference knows its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers import workloads
from benchmarks.peers.drivers import (
    machine,
    make_models,
    ours_train,
    training_batch,
    transformers_serve,
    transformers_train,
)
from benchmarks.peers.models import qwen3_moe
from benchmarks.peers.workloads import Request, Workload

pytestmark = pytest.mark.slow

CONFIG = qwen3_moe("small", d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=512, d_expert=16)
SHAPE = {"n_rows": 2, "row_tokens": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    home = tmp_path_factory.mktemp("peers")
    make_models.make(CONFIG.to_dict(), str(home), is_random=True, ggufs=[])
    yield str(home / "hf")
    torch.set_num_threads(threads)


def test_making_keeps_what_is_there(folder: str) -> None:
    file = Path(folder, "config.json")
    before = file.stat().st_mtime_ns
    assert make_models.make(CONFIG.to_dict(), str(Path(folder).parent), is_random=True, ggufs=[]) == {
        "made": []
    }
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 3e-2)])
def test_both_sides_take_the_same_steps(folder: str, precision: Any, tolerance: float) -> None:
    ours_train.load(folder, precision)
    transformers_train.load(folder, precision)
    chosen = transformers_train.choose(**SHAPE, seed="choose")
    assert chosen["chosen"] in chosen["seconds"]
    for number in range(3):  # choosing has moved nothing, or the first losses would differ
        ours = ours_train.step(**SHAPE, seed=f"step {number}")
        theirs = transformers_train.step(**SHAPE, seed=f"step {number}")
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=tolerance)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=100 * tolerance)
        assert ours["ns"] > 0 < theirs["ns"]
    assert ours["loss"] != pytest.approx(ours_train.step(**SHAPE, seed="step 0")["loss"], abs=1e-4)


def test_what_would_gather_too_many_weights_is_not_tried(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_train, "MOST_GATHERED_BYTES", 1 << 10)
    transformers_train.load(folder, "fp32")
    chosen = transformers_train.choose(**SHAPE, seed="choose")
    assert list(chosen["refused"]) == ["batched_mm"]
    assert "batched_mm" not in chosen["seconds"]


def test_the_profile_names_operators(folder: str) -> None:
    ours_train.load(folder, "fp32")
    assert "gainshare::causal_attention_backward" in ours_train.profile(**SHAPE, seed="x", rows=100)["table"]


def test_batches_are_the_same_in_every_process_and_uneven() -> None:
    one = training_batch.tokens(1000, 4, 50, "seed")
    assert torch.equal(one, training_batch.tokens(1000, 4, 50, "seed"))
    assert not torch.equal(one, training_batch.tokens(1000, 4, 50, "other"))
    assert (one < 500).float().mean() > 0.6


def test_the_reference_has_no_regret_about_its_own_answers_and_much_about_others(folder: str) -> None:
    transformers_serve.load(folder, "fp32")
    # Unequal lengths: padding must not change what a row answers.
    requests = [Request(tuple(range(300, 300 + n)), n_new) for n, n_new in ((5, 4), (11, 6))]
    sent = Workload("w", tuple(requests)).to_json()
    answer = transformers_serve.run("w", sent)
    sequences = [
        {"prompt": list(request.prompt), "tokens": each["tokens"]}
        for request, each in zip(requests, answer["requests"], strict=True)
    ]
    assert [len(each["tokens"]) for each in sequences] == [4, 6]
    regrets = transformers_serve.regrets(sequences)["regrets"]
    assert max(max(each) for each in regrets) < 1e-4
    wrong = [{**each, "tokens": [(token + 1) % 512 for token in each["tokens"]]} for each in sequences]
    assert min(min(each) for each in transformers_serve.regrets(wrong)["regrets"]) > 1e-3


def test_a_static_batch_answers_drawn_workloads(folder: str) -> None:
    transformers_serve.load(folder, "fp32")
    sent = workloads.draw("decode B8", CONFIG.vocab_size, "x").to_json()[:3]
    answer = transformers_serve.run("decode B8", sent)
    assert [len(each["tokens"]) for each in answer["requests"]] == [each["n_new"] for each in sent]
    assert answer["how"] in transformers_serve.IMPLEMENTATIONS


def test_products_are_those_of_the_wider_type_where_these_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {"float32": 90e9, "bfloat16": 1e9, "int8": 300e9}
    monkeypatch.setattr(machine, "_products_per_s", reached.__getitem__)
    threads = torch.get_num_threads()
    try:
        assert machine.gemm("bfloat16") == {"flops": 90e9, "dtype": "float32"}
        assert machine.gemm("int8") == {"flops": 300e9, "dtype": "int8"}
    finally:
        torch.set_num_threads(threads)


def test_the_machine_has_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEASURE_S", 0.01)
    threads = torch.get_num_threads()
    try:
        assert machine.bandwidth(1 << 22)["bytes_per_s"] > 1e8
        assert machine.gemm("float32")["flops"] > 1e8
        assert machine.gemm("int8")["flops"] > 1e8
    finally:
        torch.set_num_threads(threads)


def test_our_engine_answers_as_the_model_does_alone_and_among_late_arrivals(
    folder: str, tmp_path: Path
) -> None:
    from benchmarks.peers.drivers import ours_serve

    threads = torch.get_num_threads()
    ours_serve.load(folder, "fp32", max_tokens=64, max_batch=4, kept_in=str(tmp_path))
    try:
        requests = [Request(tuple(range(260, 260 + n)), 5, after) for n, after in ((7, 0), (3, 0), (12, 4))]
        answer = ours_serve.run("w", Workload("w", tuple(requests)).to_json())
        transformers_serve.load(folder, "fp32")
        sequences = [
            {"prompt": list(request.prompt), "tokens": each["tokens"]}
            for request, each in zip(requests, answer["requests"], strict=True)
        ]
        assert [len(each["tokens"]) for each in sequences] == [5, 5, 5]
        regrets = transformers_serve.regrets(sequences)["regrets"]
        assert max(max(each) for each in regrets) < 1e-4
        first_end = answer["requests"][0]["times_ns"][0]
        assert answer["requests"][2]["submitted_ns"] > first_end
        assert 0 < answer["executor_ns"] < answer["busy_ns"]
        assert answer["steps"] >= 6
        with pytest.raises(ValueError, match="context"):
            ours_serve.run("long", Workload("long", (Request((300,) * 3000, 1),)).to_json())
    finally:
        assert ours_serve._engine is not None
        ours_serve._engine.stop()
        torch.set_num_threads(threads)
