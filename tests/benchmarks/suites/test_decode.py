"""Suites decode and decode_batched: steps behind real caches; what forgets, mixes up or rounds is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites import get_suite
from benchmarks.suites.base import WARM_UP, Tensors
from benchmarks.suites.decode import Decode, DecodeProblem, decode, decode_flops
from benchmarks.suites.decode_batched import decode_batched
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw, verdict_on
from tests.needs_torch import needs_cuda

SUITES = [decode, decode_batched]
EXECUTOR, WEIGHTS = "model/serving/executors/native.py", "model/serving/executors/native_weights.py"
# Decoding as if nothing had been said before: no past to read.
NO_PAST = """

_honest = NativeExecutor.step


def _step(self, parts):
    return _honest(self, [Part(part.tokens, 0, part.blocks, part.n_logits) for part in parts])


NativeExecutor.step = _step
"""
# The least important expert of each token is left out.
DROPS_AN_EXPERT = """

_honest = NativeWeights._router


def _router(self, router):
    table = _honest(self, router)
    table.top_k -= 1
    return table


NativeWeights._router = _router
"""


def numbers(turn: int = 0) -> np.random.Generator:
    return Seeds(SECRET).numbers("inputs", turn)


def calls(problem: DecodeProblem, last: int) -> list[tuple[int, Tensors]]:
    return [(turn, problem.draw_inputs(numbers(turn), turn)) for turn in range(WARM_UP, last + 1)]


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        (decode("tiny"), 0),
        (decode_batched("tiny"), 0),
        *[
            pytest.param(*size, marks=pytest.mark.long)
            for size in (
                (decode("demo"), 0),
                (decode("standard"), 0),
                (decode_batched("demo"), 0),
                (decode_batched("standard"), 0),
                (decode_batched("standard"), 1),
            )
        ],
    ],
    ids=lambda value: f"{value.name}-{value.preset}" if isinstance(value, Decode) else str(value),
)
def test_the_shipped_stack_passes_the_checks_it_is_measured_by(suite: Decode, case: int) -> None:
    problem = draw(suite, 1, case)
    side = InProcess(suite, problem)
    for turn, inputs in calls(problem, 3):
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, problem.plain(inputs, turn), answers, inputs, turn) is None


@pytest.mark.parametrize("make", SUITES)
def test_each_timed_call_carries_one_id_per_sequence_and_nothing_of_the_past(
    make: Callable[[str], Decode],
) -> None:
    problem = draw(make("tiny"))
    prompts, *steps = (inputs for _, inputs in calls(problem, 4))
    assert sorted(prompts["lengths"]) == sorted(problem.lengths) and prompts["is_new"][0] == 1
    for inputs in steps:
        assert inputs["ids"].shape == (problem.places,)
        assert (inputs["lengths"] == 1).all() and inputs["is_new"][0] == 0


def test_ids_are_drawn_not_decoded() -> None:
    problem = draw(decode_batched("tiny"))
    likeliest, drawn = [], []
    for turn, inputs in calls(problem, 10):
        drawn.append(inputs["ids"][-problem.places :])
        likeliest.append(problem.exact(inputs, turn)["logits"].argmax(axis=1))
    guessed = np.mean(np.stack(drawn[1:]) == np.stack(likeliest[:-1]))
    assert guessed < 0.2


@pytest.mark.parametrize(("make", "alone"), [(decode, True), (decode_batched, False)])
def test_sequences_of_decode_are_stepped_alone_and_those_of_decode_batched_together(
    make: Callable[[str], Decode], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = draw(make("tiny"))
    side = InProcess(make("tiny"), problem)
    side.ask(problem.draw_inputs(numbers(), WARM_UP))
    steps: list[int] = []
    executor = side.state["engine"].executor
    honest = executor.step

    def counted(parts: list[object]) -> object:
        steps.append(len(parts))
        return honest(parts)

    monkeypatch.setattr(executor, "step", counted)
    side.ask(problem.draw_inputs(numbers(1), 0))
    assert problem.places > 1
    assert steps == ([1] * problem.places if alone else [problem.places])


def no_past(side: InProcess) -> None:
    side.state["engine"].executor._cache.zero_()


def mixed_up(side: InProcess) -> None:
    sequences = side.state["engine"].sequences
    sequences[0], sequences[1] = sequences[1], sequences[0]


def half_precision(side: InProcess) -> None:
    cache = side.state["engine"].executor._cache.view(torch.float32)
    cache.copy_(cache.bfloat16())


@pytest.mark.parametrize("make", SUITES)
@pytest.mark.parametrize("broken", [no_past, mixed_up, half_precision])
def test_a_cache_that_is_not_what_it_should_be_is_found(
    make: Callable[[str], Decode], broken: Callable[[InProcess], None]
) -> None:
    suite = make("tiny")
    problem = draw(suite)
    honest, candidate = InProcess(suite, problem), InProcess(suite, problem)
    (_, prompts), (turn, step) = calls(problem, 0)
    honest.ask(prompts)
    candidate.ask(prompts)
    broken(candidate)
    found = verdict_on(suite, problem, honest.ask(step), candidate.ask(step), step, turn)
    assert found is not None and found.side == "candidate"


def test_a_repeated_step_would_be_found_as_well() -> None:
    suite = decode("tiny")
    problem = draw(suite)
    side = InProcess(suite, problem)
    (_, prompts), (_, first), (_, second) = calls(problem, 1)
    side.ask(prompts)
    answer = side.ask(first)
    found = verdict_on(suite, problem, side.ask(second), answer, second, 1)
    assert found is not None and found.side == "candidate"


def test_the_floor_counts_every_active_weight_and_the_whole_context() -> None:
    shape = {
        "vocab": 10, "d_model": 4, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_head": 2, "d_ff": 5,
        "d_expert": 3, "n_experts": 4, "top_k": 2, "n_shared": 0, "first_moe_layer": 1,
    }  # fmt: skip
    active = 2 * (2 * 4 * 2 * 3) + 3 * 4 * 5 + (3 * 4 * 2 * 3 + 4 * 4)
    assert decode_flops(shape, [7, 9]) == 2 * 2 * (active + 10 * 4) + 4 * 16 * 2 * 2 * 2


@needs_cuda("the inference suites were not run on one")
@pytest.mark.parametrize("name", ["prefill", "decode", "decode_batched", "peak_memory"])
def test_the_stack_on_cuda_passes_the_checks(name: str) -> None:
    suite = get_suite(name, "demo")
    problem = draw(suite)
    side = InProcess(suite, problem, "cuda")
    for turn in (WARM_UP, 0, 1):
        inputs = problem.draw_inputs(numbers(turn), turn)
        assert verdict_on(suite, problem, problem.plain(inputs, turn), side.ask(inputs), inputs, turn) is None


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("make", "path", "text"),
    [
        (decode, EXECUTOR, NO_PAST),
        pytest.param(decode_batched, WEIGHTS, DROPS_AN_EXPERT, marks=pytest.mark.long),
    ],
)
def test_in_real_sandboxes_the_stack_passes_and_a_candidate_that_saves_what_it_must_do_does_not(
    open_folder: Path, make: Callable[[str], Decode], path: str, text: str
) -> None:
    suite, trees = make("tiny"), Trees(open_folder)
    record = trees.measure(suite, trees.shipped)
    assert record.outputs_checked == suite.calls_per_side + 1
    assert [side for side, _ in record.calls].count("candidate") == suite.calls_per_side
    with pytest.raises(SideFailed) as failed:
        trees.measure(suite, trees.appended(path, text))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
