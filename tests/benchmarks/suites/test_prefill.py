"""Suite prefill: the stack's answers after prompts are right; peeking, forgetting and empty caches are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import WARM_UP, Tensors
from benchmarks.suites.prefill import PrefillProblem, prefill
from model.serving.executors import choice as executors
from model.serving.executors import native as native_executor
from model.serving.executors.plain_torch import PagedStore
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw, verdict_on

EXECUTORS = "model/serving/executors/choice.py"
# Plain torch, in which every query sees every key that there is: one kernel for all cases, and a leak of the future.
PEEKING = """
import torch.nn.functional as F

native_executor.supports = lambda config: "peeking is written in torch"
_honest = F.scaled_dot_product_attention


def _peeking(*tensors, attn_mask=None, is_causal=False, **options):
    return _honest(*tensors, **options)


F.scaled_dot_product_attention = _peeking
"""


@pytest.fixture
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are served without the stack's kernels."""
    monkeypatch.setattr(native_executor, "supports", lambda config: "a test wants plain torch")


def numbers(turn: int = 0) -> np.random.Generator:
    return Seeds(SECRET).numbers("inputs", turn)


def turns(problem: PrefillProblem, last: int) -> list[tuple[int, Tensors]]:
    """All calls of the turns up to `last`, untimed ones included."""
    calls = []
    for turn in range(WARM_UP, last + 1):
        before = problem.before(numbers(100 + turn), turn)
        calls += [(turn, before)] if before is not None else []
        calls.append((turn, problem.draw_inputs(numbers(turn), turn)))
    return calls


@pytest.mark.parametrize(
    ("preset", "case"),
    [
        ("tiny", 0),
        *[
            pytest.param(*size, marks=pytest.mark.long)
            for size in (("demo", 0), ("standard", 0), ("standard", 1))
        ],
    ],
)
def test_the_shipped_stack_passes_the_checks_it_is_measured_by(preset: str, case: int) -> None:
    suite = prefill(preset)
    problem = draw(suite, 1, case)
    side = InProcess(suite, problem)
    for turn, inputs in turns(problem, 1):
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, problem.plain(inputs, turn), answers, inputs, turn) is None


def test_an_untimed_step_follows_each_prompt_but_the_last() -> None:
    problem = draw(prefill("tiny"))
    calls = turns(problem, 2)
    assert [bool(inputs["is_new"][0]) for _, inputs in calls] == [True, False, True, False, True, False, True]
    assert all(len(inputs["ids"]) == sum(problem.lengths) for _, inputs in calls if inputs["is_new"][0])


def test_lengths_stay_the_same_and_change_places() -> None:
    problem = draw(prefill("tiny"))
    places = [tuple(problem.draw_inputs(numbers(turn), turn)["lengths"]) for turn in range(8)]
    assert {tuple(sorted(lengths)) for lengths in places} == {tuple(sorted(problem.lengths))}
    assert len(set(places)) > 1


def test_without_kernels_the_stack_passes_as_well(plain_torch: None) -> None:
    suite = prefill("tiny")
    problem = draw(suite)
    side = InProcess(suite, problem)
    for turn, inputs in turns(problem, 0):
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, problem.plain(inputs, turn), answers, inputs, turn) is None


def test_chunks_as_the_engine_reads_them_give_the_same_answers() -> None:
    suite = prefill("tiny")
    problem = draw(suite)
    whole = InProcess(suite, problem)
    problem.config["step_tokens"] = 17
    chunked = InProcess(suite, problem)
    for turn, inputs in turns(problem, 0):
        assert verdict_on(suite, problem, whole.ask(inputs), chunked.ask(inputs), inputs, turn) is None


def test_a_future_that_is_seen_is_a_wrong_answer(plain_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = prefill("tiny")
    problem = draw(suite)
    side = InProcess(suite, problem)
    inputs = problem.draw_inputs(numbers(), 0)
    honest = side.ask(inputs)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention",
        lambda *qkv, enable_gqa, **_: sdpa(*qkv, enable_gqa=enable_gqa),
    )
    found = verdict_on(suite, problem, honest, side.ask(inputs), inputs, 0)
    assert found is not None and found.side == "candidate"


def test_caches_that_were_not_filled_show_in_the_untimed_step(
    plain_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = prefill("tiny")
    problem = draw(suite)
    (_, prompts), (_, step) = turns(problem, 0)[:2]
    honest, lazy = InProcess(suite, problem), InProcess(suite, problem)
    expected = honest.ask(prompts), honest.ask(step)
    extend = PagedStore.extend

    def forgets(self: PagedStore, layer: int, k: torch.Tensor, v: torch.Tensor, first: int) -> object:
        keys, values = extend(self, layer, k, v, first)
        answer = keys.clone(), values.clone()
        keys[:, 0].zero_()
        return answer

    monkeypatch.setattr(PagedStore, "extend", forgets)
    assert verdict_on(suite, problem, expected[0], lazy.ask(prompts), prompts, WARM_UP) is None
    found = verdict_on(suite, problem, expected[1], lazy.ask(step), step, 0)
    assert found is not None and found.side == "candidate"


def test_half_precision_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = prefill("tiny")
    problem = draw(suite)
    side = InProcess(suite, problem)
    monkeypatch.setitem(executors.WEIGHTS, torch.float32, "bf16")
    half = InProcess(suite, problem)
    inputs = problem.draw_inputs(numbers(), 0)
    found = verdict_on(suite, problem, side.ask(inputs), half.ask(inputs), inputs, 0)
    assert found is not None and found.side == "candidate"


def test_the_floor_leaves_out_the_last_layer_and_counts_the_head_once_per_prompt() -> None:
    shape = {
        "vocab": 10, "d_model": 4, "n_layers": 3, "n_heads": 2, "n_kv_heads": 1, "d_head": 2, "d_ff": 5,
        "d_expert": 3, "n_experts": 4, "top_k": 2, "n_shared": 1, "first_moe_layer": 1, "tied": 1,
        "max_context": 64, "sequences": 2, "tokens": 8,
    }  # fmt: skip
    attention = 2 * 4 * 2 * (2 + 1)
    per_id = 2 * attention + 3 * 4 * 5 + (3 * 4 * 3 * 3 + 4 * 4)  # one dense and one MoE layer
    seen = 2 * (4 * 5 // 2 + 8 * 9 // 2)  # prompts of 4 and 8 ids, two layers
    problem = PrefillProblem(shape, np.random.default_rng(0))
    assert problem.floor_flops == 2 * (12 * per_id + 2 * 10 * 4) + 4 * seen * 2 * 2


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_the_stack_passes_and_a_candidate_that_peeks_does_not(open_folder: Path) -> None:
    suite, trees = prefill("tiny"), Trees(open_folder)
    record = trees.measure(suite, trees.shipped)
    assert record.outputs_checked == 2 * suite.calls_per_side + 1
    assert [side for side, _ in record.calls].count("candidate") == suite.calls_per_side
    with pytest.raises(SideFailed) as failed:
        trees.measure(suite, trees.appended(EXECUTORS, PEEKING))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
