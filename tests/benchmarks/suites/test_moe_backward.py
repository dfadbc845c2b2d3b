"""Suite moe_backward: the shipped layer's gradients are right, and no gradient can be left out or made cheaper."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import WARM_UP, Tensors
from benchmarks.suites.moe_backward import MoEBackwardProblem, moe_backward
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw, verdict_on
from tests.needs_torch import needs_cuda

ROUTER = "model/layers/moe/router.py"
# The router's choice cut off from its weights' gradient: a tenth of the way back saved, unnoticed by y.
NO_ROUTER_GRADIENT = """

_honest = Router.forward


def _forward(self, x_TD):
    with torch.no_grad():
        return _honest(self, x_TD)


Router.forward = _forward
"""


def numbers(turn: int = 0) -> np.random.Generator:
    return Seeds(SECRET).numbers("inputs", turn)


@pytest.fixture(scope="module")
def side() -> InProcess:
    return InProcess(moe_backward("tiny"), draw(moe_backward("tiny")))


@pytest.mark.parametrize("preset", ["tiny", pytest.param("demo", marks=pytest.mark.long)])
def test_the_shipped_layer_passes_the_checks_it_is_measured_by(preset: str) -> None:
    suite = moe_backward(preset)
    problem = draw(suite, 1)
    side = InProcess(suite, problem)
    for turn in (WARM_UP, 0):  # the second call shows that gradients of the first one are gone
        inputs = problem.draw_inputs(numbers(turn), turn)
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, problem.plain(inputs, turn), answers, inputs, turn) is None


def test_every_weight_s_gradient_is_asked_for_whole(side: InProcess) -> None:
    specs = {spec.name: spec.shape for spec in side.problem.outputs}
    assert specs.pop("y") == specs.pop("grad.x")
    assert specs == {f"grad.{name}": value.shape for name, value in side.problem.weights.items()}


def double_for_one_token(answers: Tensors) -> None:
    answers["grad.x"][0, 7] *= 1.01


def half_precision(answers: Tensors) -> None:
    for name, value in answers.items():
        answers[name] = torch.tensor(value).bfloat16().float().numpy()


def stale(answers: Tensors) -> None:
    answers["grad.experts.w_up"] *= 2  # what is left when gradients are not cleared


def no_router(answers: Tensors) -> None:
    answers["grad.router.weight"][:] = 0


def one_element(answers: Tensors) -> None:
    answers["grad.experts.w_down"][3, 5, 5] += 0.01 * np.abs(answers["grad.experts.w_down"]).max()


@pytest.mark.parametrize("cheat", [double_for_one_token, half_precision, stale, no_router, one_element])
def test_a_gradient_that_is_off_is_found(side: InProcess, cheat: Callable[[Tensors], None]) -> None:
    suite, problem = moe_backward("tiny"), side.problem
    inputs = problem.draw_inputs(numbers(), 0)
    base = side.ask(inputs)
    wrong = {name: value.copy() for name, value in base.items()}
    cheat(wrong)
    found = verdict_on(suite, problem, base, wrong, inputs, 0)
    assert found is not None and found.side == "candidate"
    assert verdict_on(suite, problem, base, base, inputs, 0) is None


def test_a_layer_that_leaves_a_weight_without_gradient_is_told_which(side: InProcess) -> None:
    layer, names, device = side.state._layer, side.state._names, side.state._device
    layer.router.weight.requires_grad_(False)
    try:
        with pytest.raises(RuntimeError, match=r"router\.weight"):
            side.ask(side.problem.draw_inputs(numbers(), 0))
    finally:
        layer.router.weight.requires_grad_(True)
    assert "router.weight" in names and device == "cpu"


def test_the_floor_counts_three_products_there_and_six_back() -> None:
    shape = {
        "block": 1,
        "tokens": 10,
        "d_model": 4,
        "d_expert": 8,
        "n_experts": 16,
        "top_k": 2,
        "n_shared": 1,
    }
    problem = MoEBackwardProblem(shape, np.random.default_rng(0))
    assert problem.floor_flops == 10 * 3 * 9 * 2 * 4 * 8


def test_upstream_gradients_are_fresh_in_every_call(side: InProcess) -> None:
    first, second = (side.problem.draw_inputs(numbers(turn), turn) for turn in (0, 1))
    assert (first["grad_y"] != second["grad_y"]).all() and (first["x"] != second["x"]).all()


@needs_cuda("moe_backward was not run on one")
def test_the_layer_on_cuda_passes_the_checks() -> None:
    suite = moe_backward("demo")
    problem = draw(suite)
    inputs = problem.draw_inputs(numbers(), 0)
    answers = InProcess(suite, problem, "cuda").ask(inputs)
    assert verdict_on(suite, problem, answers, answers, inputs, 0) is None


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_the_stack_passes_and_a_candidate_without_router_gradient_does_not(
    open_folder: Path,
) -> None:
    suite, trees = moe_backward("tiny"), Trees(open_folder)
    record = trees.measure(suite, trees.shipped)
    assert record.outputs_checked == suite.calls_per_side + 1
    assert [side for side, _ in record.calls].count("candidate") == suite.calls_per_side
    with pytest.raises(SideFailed) as failed:
        trees.measure(suite, trees.appended(ROUTER, NO_ROUTER_GRADIENT))
    assert failed.value.side == "candidate"
    assert failed.value.kind in ("wrong_output", "crash")
    assert "router.weight" in failed.value.detail
