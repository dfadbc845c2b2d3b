"""Suite quality: the judge's own loss after equal time, and what a candidate cannot win it by."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs.clocked import PairRecord
from benchmarks.pairs.side import SideFailed
from benchmarks.suites import grammar
from benchmarks.suites.language import (
    CAUSAL_PPB,
    NANO,
    LanguageProblem,
    bigram_surprise,
    common_past_ppb,
    nats,
)
from benchmarks.suites.quality import quality
from tests.benchmarks.suites.language_sides import SCORING_NS, STEP_NS, InProcessSides
from tests.benchmarks.suites.suite_pairs import Trees, draw
from tests.needs_torch import needs_cuda

pytestmark = pytest.mark.slow

TRAINER = "model/training/run/trainer.py"
# The next id's logit is raised wherever it is known: the loss of such a model is wonderful.
LOOKS_AHEAD = """

_honest = Trainer.logits


def _logits(self, tokens_BS):
    logits = _honest(self, tokens_BS)
    ahead = tokens_BS[:, 1:, None]
    return torch.cat((logits[:, :-1].scatter_add(2, ahead, torch.ones_like(ahead).float()), logits[:, -1:]), 1)


Trainer.logits = _logits
"""

Logits = Callable[[torch.Tensor], torch.Tensor]


def sides_of_a_pair(**options: object) -> InProcessSides:
    suite = quality("tiny")
    return InProcessSides(suite, draw(suite), **options)  # type: ignore[arg-type]


def values(sides: InProcessSides) -> dict[str, int]:
    trial = quality("tiny").trial
    assert trial is not None
    return trial.run(sides.problem, sides, random.Random(1))


def test_the_same_code_in_the_same_time_ends_with_the_same_loss() -> None:
    sides = sides_of_a_pair()
    found = values(sides)
    assert found["base"] == found["candidate"]
    assert sides.steps == {"base": 16, "candidate": 16}
    assert 1.0 < found["base"] / NANO < 4.5  # ln 128 = 4.85 would have learnt nothing
    assert sides.proofs == 2 * quality("tiny").training.batches


def test_the_value_is_the_judge_s_loss_on_held_out_text() -> None:
    sides = sides_of_a_pair()
    found = values(sides)
    problem = sides.problem
    assert isinstance(problem, LanguageProblem)
    losses = []
    for number in range(quality("tiny").training.batches):
        ids = torch.tensor(problem.unseen(sides.numbers("held-out", number)))
        logits = sides.candidate.logits(ids[:, :-1])
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
    assert found["candidate"] / NANO == pytest.approx(np.mean(losses), rel=1e-5)


def test_twice_the_speed_is_twice_the_steps_and_a_lower_loss() -> None:
    sides = sides_of_a_pair(clocks={"candidate": lambda is_step: STEP_NS // 2 if is_step else SCORING_NS})
    found = values(sides)
    assert sides.steps == {"base": 16, "candidate": 32}
    assert found["candidate"] < 0.97 * found["base"]


def test_half_the_speed_is_half_the_steps() -> None:
    sides = sides_of_a_pair(clocks={"candidate": lambda is_step: STEP_NS * 2 if is_step else SCORING_NS})
    found = values(sides)
    assert sides.steps == {"base": 16, "candidate": 8}
    assert found["candidate"] > 1.03 * found["base"]


def test_bfloat16_inside_is_honest_here_and_nearly_as_good() -> None:
    sides = sides_of_a_pair()
    trainer = sides.candidate
    trainer.step, trainer.logits = in_bfloat16(trainer.step), in_bfloat16(trainer.logits)
    found = values(sides)
    assert found["candidate"] != found["base"]
    assert found["candidate"] == pytest.approx(found["base"], rel=0.02)


def in_bfloat16(act: Logits) -> Logits:
    def cast(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return act(tokens).float()

    return cast


def looks_one_ahead(honest: Logits) -> Logits:
    def logits(ids: torch.Tensor) -> torch.Tensor:
        found = honest(ids)
        ahead = ids[:, 1:, None]
        found[:, :-1] = found[:, :-1].scatter_add(2, ahead, torch.ones_like(ahead).float())
        return found

    return logits


def looks_six_ahead(honest: Logits) -> Logits:
    def logits(ids: torch.Tensor) -> torch.Tensor:
        found = honest(ids)
        found[:, :-6] += 0.3 * torch.nn.functional.one_hot(ids[:, 6:], 128)
        return found

    return logits


@pytest.mark.parametrize("cheat", [looks_one_ahead, looks_six_ahead])
def test_a_model_whose_past_depends_on_the_future_is_wrong(cheat: Callable[[Logits], Logits]) -> None:
    sides = sides_of_a_pair()
    sides.candidate.logits = cheat(sides.candidate.logits)
    with pytest.raises(SideFailed, match="uses future tokens") as failed:
        values(sides)
    assert (failed.value.side, failed.value.kind) == ("candidate", "wrong_output")


def test_a_model_that_learns_what_it_is_scored_on_is_wrong() -> None:
    sides = sides_of_a_pair()
    trainer = sides.candidate
    honest = trainer.logits

    def logits(ids: torch.Tensor) -> torch.Tensor:
        trainer.step(ids)
        answer: torch.Tensor = honest(ids)
        return answer

    trainer.logits = logits
    with pytest.raises(SideFailed, match="uses future tokens"):
        values(sides)


def test_training_that_continues_while_it_is_scored_is_suspicious() -> None:
    sides = sides_of_a_pair(clocks={"candidate": lambda is_step: STEP_NS if is_step else 80 * SCORING_NS})
    with pytest.raises(SideFailed, match="training that continued") as failed:
        values(sides)
    assert failed.value.kind == "suspicious"


def test_logits_that_are_no_numbers_are_wrong() -> None:
    sides = sides_of_a_pair()
    sides.candidate.logits = lambda ids: torch.full((*ids.shape, 128), float("nan"))
    with pytest.raises(SideFailed, match="not finite"):
        values(sides)


def test_nats_are_cross_entropy_in_double_precision() -> None:
    logits, ids = (
        np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32),
        np.array([[1, 4, 0]] * 2),
    )
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).double().flatten(0, 1), torch.tensor(ids).flatten(), reduction="none"
    )
    np.testing.assert_allclose(nats(logits, ids).ravel(), expected.numpy(), rtol=1e-12)


def test_the_last_id_before_the_change_counts_by_itself() -> None:
    one = np.random.default_rng(0).standard_normal((4, 40, 16))
    two, place = one.copy(), np.array([30, 31, 32, 33])
    two[:, 34:] += 1.0
    assert common_past_ppb(one, two, place) == 0
    assert common_past_ppb(one, two + 5.0, place) < 10  # what a softmax does not see
    two[np.arange(4), place - 1] += 0.03 * one[np.arange(4), 0]  # a thirtieth, in one row of thirty
    assert common_past_ppb(one, two, place) > CAUSAL_PPB


def test_a_changed_future_differs_at_once_and_keeps_the_past() -> None:
    problem = draw(quality("tiny"))
    assert isinstance(problem, LanguageProblem)
    ids = problem.unseen(np.random.default_rng(0))[:, :-1]
    changed, place = problem.changed(np.random.default_rng(1), ids)
    for row, at in enumerate(place):
        assert at >= ids.shape[1] // 4
        assert (changed[row, :at] == ids[row, :at]).all() and changed[row, at] != ids[row, at]
    assert len(set(place)) > 5


def test_the_bigram_table_is_a_distribution_that_knows_its_text() -> None:
    text = np.array([1, 2, 1, 2, 1, 3] * 50)
    chance = np.exp(-bigram_surprise(text))
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)
    assert chance[2, 1] > 0.9 and chance[1, 2] > 1.5 * chance[1, 3] > chance[1, 7]


def test_held_out_text_of_a_pair_is_not_its_training_text() -> None:
    problem = draw(quality("tiny"))
    assert isinstance(problem, LanguageProblem)
    training = problem.text.training.tobytes()
    rows = problem.unseen(np.random.default_rng(0))
    assert sum(row.tobytes() in training for row in rows) == 0
    assert problem.batch(np.random.default_rng(0))["tokens"][0].tobytes() in training


def test_the_rules_that_the_text_was_drawn_by_are_in_the_evidence() -> None:
    corpus = quality("demo").describe()["corpus"]
    assert corpus["version"] == grammar.VERSION and "secret language" in corpus["name"]


@needs_cuda("quality was not trained on one")
def test_training_on_cuda_learns_as_well() -> None:
    sides = sides_of_a_pair()
    frames = {name: (str(v.dtype), v.shape, v.tobytes()) for name, v in sides.problem.weights.items()}
    sides.states["candidate"] = sides.half.build({**sides.problem.config, "device": "cuda"}, frames)
    found = values(sides)
    assert found["candidate"] == pytest.approx(found["base"], rel=0.01)


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_a_pair_has_two_losses_and_a_look_ahead_is_found(open_folder: Path) -> None:
    suite, trees = quality("tiny"), Trees(open_folder)
    record: PairRecord = trees.measure(suite, trees.shipped)
    found = dict(record.calls)
    # Both have learnt. On a busy machine their times, and so their steps, may be far apart.
    assert all(1.0 < value / NANO < np.log(128) for value in found.values()) and len(found) == 2
    assert record.oracle_checked == 4 and record.timed_ns > 0
    with pytest.raises(SideFailed, match="uses future tokens") as failed:
        trees.measure(suite, trees.appended(TRAINER, LOOKS_AHEAD))
    assert (failed.value.side, failed.value.kind) == ("candidate", "wrong_output")
