"""Suite train_step: the shipped trainer's steps are right, and no update can be skipped, halved, cheapened or put off."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.oracle.decoder_backward import forward, routing_margins
from benchmarks.pairs.checks import WrongAnswer, distance
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import WARM_UP, Tensors
from benchmarks.suites.train_step import MIN_MARGIN, TrainStepProblem, train_step
from model.training.run.trainer import Trainer
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw, verdict_on
from tests.needs_torch import needs_cuda

TURNS = range(WARM_UP, 6)
TRAINER = "model/training/run/trainer.py"
# Every second batch is only looked at.
SKIPS = """

_honest = Trainer.step


def _step(self, tokens_BS):
    self.seen = getattr(self, "seen", 0) + 1
    if self.seen % 2:
        return _honest(self, tokens_BS)
    with torch.no_grad():
        return next_token_loss(self.model(tokens_BS), tokens_BS)


Trainer.step = _step
"""

Act = Callable[[Trainer, torch.Tensor], torch.Tensor]


def problem_and_inputs() -> tuple[TrainStepProblem, list[Tensors]]:
    problem = draw(train_step("tiny"))
    assert isinstance(problem, TrainStepProblem)
    return problem, [problem.draw_inputs(Seeds(SECRET).numbers("inputs", turn), turn) for turn in TURNS]


@pytest.fixture(scope="module")
def honest() -> tuple[TrainStepProblem, list[Tensors], list[Tensors]]:
    problem, inputs = problem_and_inputs()
    side = InProcess(train_step("tiny"), problem)
    return problem, inputs, [side.ask(given) for given in inputs]


def first_wrong(
    honest: tuple[TrainStepProblem, list[Tensors], list[Tensors]], answers: list[Tensors]
) -> tuple[int, WrongAnswer] | None:
    problem, inputs, base = honest
    for turn, given, right, answer in zip(TURNS, inputs, base, answers, strict=True):
        found = verdict_on(train_step("tiny"), problem, right, answer, given, turn)
        if found is not None:
            return turn, found
    return None


def test_the_shipped_trainer_passes_every_turn(
    honest: tuple[TrainStepProblem, list[Tensors], list[Tensors]],
) -> None:
    problem, inputs, answers = honest
    assert first_wrong(honest, answers) is None
    plain = [problem.plain(given, turn) for turn, given in zip(TURNS, inputs, strict=True)]
    assert first_wrong(honest, [{**p, "loss": p["loss"].astype(np.float32)} for p in plain]) is None


@pytest.mark.long
@pytest.mark.parametrize("preset", ["demo", "standard"])
def test_the_shipped_trainer_passes_at_the_sizes_that_pay(preset: str) -> None:
    suite = train_step(preset)
    problem = draw(suite)
    side = InProcess(suite, problem)
    for turn in range(suite.calls_per_side):
        inputs = problem.draw_inputs(Seeds(SECRET).numbers("inputs", turn), turn)
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, answers, answers, inputs, turn) is None


def skipped(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    return trainer.step(tokens) if trainer.steps != 3 else stands_still(trainer, tokens)


def stands_still(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    recipe, trainer.recipe = trainer.recipe, replace(trainer.recipe, learning_rate=1e-12)
    loss = trainer.step(tokens)
    trainer.recipe = recipe
    return loss


def half_of_the_batch(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    return trainer.step(tokens[: len(tokens) // 2])


def yesterdays_batch(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    before = trainer.__dict__.get("before", tokens)
    trainer.__dict__["before"] = tokens
    return trainer.step(before)


def bfloat16_inside(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return trainer.step(tokens)


def bfloat16_gradients(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    if trainer.steps == 0:
        for parameter in trainer.model.parameters():
            parameter.register_hook(lambda gradient: gradient.bfloat16().float())
    return trainer.step(tokens)


def no_clipping(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    trainer.recipe = replace(trainer.recipe, clip_norm=1e9)
    return trainer.step(tokens)


def no_decay(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
    return trainer.step(tokens)


def frozen_router(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_("router" not in name)
    return trainer.step(tokens)


def stale_loss(trainer: Trainer, tokens: torch.Tensor) -> torch.Tensor:
    loss = trainer.step(tokens)
    before = trainer.__dict__.get("before", loss)
    trainer.__dict__["before"] = loss
    return before


@pytest.mark.parametrize(
    "cheat",
    [
        skipped,
        stands_still,
        half_of_the_batch,
        yesterdays_batch,
        bfloat16_inside,
        bfloat16_gradients,
        no_clipping,
        no_decay,
        frozen_router,
        stale_loss,
    ],
)
def test_a_step_that_is_not_the_whole_step_is_found(
    honest: tuple[TrainStepProblem, list[Tensors], list[Tensors]], cheat: Act
) -> None:
    problem, inputs, _ = honest
    side = InProcess(train_step("tiny"), problem)
    trainer, device = side.state

    class Cheating:
        def step(self, tokens: torch.Tensor) -> torch.Tensor:
            return cheat(trainer, tokens)

        logits = staticmethod(trainer.logits)

    side.state = (Cheating(), device)
    found = first_wrong(honest, [side.ask(given) for given in inputs])
    assert found is not None and found[1].side == "candidate"
    assert found[1].detail.startswith("loss" if cheat is stale_loss else ("loss", "logits"))


def test_the_oracle_moves_every_parameter_and_the_probes_see_it(
    honest: tuple[TrainStepProblem, list[Tensors], list[Tensors]],
) -> None:
    problem, inputs, answers = honest
    before = forward(problem.weights, inputs[0]["probe"], problem._oracle).logits_BSV
    moved = distance(before, answers[0]["logits"]).rms_ppb
    assert moved > 10 * train_step("tiny").tolerance.rms_ppb
    for name, value in problem._exact.parameters.items():
        assert (value != problem.weights[name]).mean() > 0.99, name


def test_no_choice_of_experts_hangs_on_rounding_before_or_after_the_update() -> None:
    problem = draw(train_step("tiny"), 1)
    assert isinstance(problem, TrainStepProblem)
    for turn in range(20):
        before = {name: value.copy() for name, value in problem._exact.parameters.items()}
        inputs = problem.draw_inputs(Seeds(SECRET).numbers("margin", turn), turn)
        for parameters, ids in ((before, inputs["tokens"]), (problem._exact.parameters, inputs["probe"])):
            tape = forward(parameters, ids, problem._oracle)
            assert routing_margins(parameters, tape, problem._oracle).min() >= MIN_MARGIN


def test_ids_are_uneven_and_which_are_frequent_is_secret() -> None:
    frequent = []
    for number in range(2):
        problem = draw(train_step("demo"), number)
        assert isinstance(problem, TrainStepProblem)
        ids = problem._ids(np.random.default_rng(0), 200)
        counts = np.bincount(ids.ravel(), minlength=problem.shape["vocab"])
        assert counts.max() > 8 * counts.mean()
        frequent.append(int(counts.argmax()))
    assert frequent[0] != frequent[1]


def test_floor_counts_batch_and_probes() -> None:
    shape = dict(draw(train_step("tiny")).shape) | {"sequences": 4, "probes": 2, "tokens": 10}  # type: ignore[attr-defined]
    base, more = (
        TrainStepProblem(shape | {"sequences": count}, np.random.default_rng(0)).floor_flops
        for count in (4, 8)
    )
    assert (more - base) * 14 == base * 12  # 3 * 4 of 3 * 4 + 2 parts


@needs_cuda("train_step was not run on one")
def test_steps_on_cuda_pass_the_checks() -> None:
    suite = train_step("demo")
    problem = draw(suite)
    side = InProcess(suite, problem, "cuda")
    for turn in range(8):
        inputs = problem.draw_inputs(Seeds(SECRET).numbers("inputs", turn), turn)
        answers = side.ask(inputs)
        assert verdict_on(suite, problem, answers, answers, inputs, turn) is None


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_the_trainer_passes_and_one_that_skips_every_second_update_does_not(
    open_folder: Path,
) -> None:
    suite, trees = train_step("tiny"), Trees(open_folder)
    record = trees.measure(suite, trees.shipped)
    assert record.outputs_checked == suite.calls_per_side + 1 and record.outputs_differing == 0
    with pytest.raises(SideFailed, match="differ by") as failed:
        trees.measure(suite, trees.appended(TRAINER, SKIPS))
    assert (failed.value.side, failed.value.kind) == ("candidate", "wrong_output")
