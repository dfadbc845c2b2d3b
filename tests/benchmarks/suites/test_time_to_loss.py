"""Suite time_to_loss: time until the judge's own loss is low enough, and what a candidate cannot shorten it by."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.pairs.side import SideFailed
from benchmarks.suites.language import LanguageProblem, Scoring
from benchmarks.suites.time_to_loss import TimeToLossTrial, reached_ns, time_to_loss
from tests.benchmarks.suites.language_sides import SCORING_NS, STEP_NS, InProcessSides
from tests.benchmarks.suites.suite_pairs import Trees, draw
from tests.needs_torch import needs_cuda

pytestmark = pytest.mark.slow

TRAINER = "model/training/run/trainer.py"
# Says that it learns, and does not.
IDLES = """

_honest = Trainer.step


def _step(self, tokens_BS):
    if self.steps >= 3:
        return torch.tensor(0.01)
    return _honest(self, tokens_BS)


Trainer.step = _step
"""


def sides_of_a_pair(**options: Any) -> InProcessSides:
    suite = time_to_loss("tiny")
    return InProcessSides(suite, draw(suite), **options)


def values(sides: InProcessSides, seed: int = 1, **changes: int) -> dict[str, int]:
    trial = replace(time_to_loss("tiny").race, **changes)
    return trial.run(sides.problem, sides, random.Random(seed))


def test_the_same_code_takes_the_same_time_and_steps() -> None:
    sides = sides_of_a_pair()
    found = values(sides)
    assert found["base"] == found["candidate"]
    assert sides.steps["base"] == sides.steps["candidate"] < 60
    assert found["base"] > (sides.steps["base"] - 4) * STEP_NS
    assert sides.proofs >= 2  # at least the deciding scoring of each


def test_faster_steps_are_less_time_in_proportion() -> None:
    sides = sides_of_a_pair(clocks={"candidate": lambda _: STEP_NS // 2, "base": lambda _: STEP_NS})
    found = values(sides)
    assert found["candidate"] == pytest.approx(found["base"] / 2, rel=1e-6)
    assert sides.steps["base"] == sides.steps["candidate"]


def test_a_better_recipe_needs_fewer_steps() -> None:
    sides = sides_of_a_pair()
    worse = sides.states["base"][0]
    worse.recipe = replace(worse.recipe, learning_rate=worse.recipe.learning_rate / 3)
    found = values(sides)
    assert sides.steps["candidate"] < sides.steps["base"]
    assert found["candidate"] < 0.8 * found["base"]


def test_scoring_counts_so_nothing_can_be_put_off_into_it() -> None:
    usual, slow = (
        sides_of_a_pair(),
        sides_of_a_pair(clocks={"candidate": lambda is_step: STEP_NS if is_step else 4 * SCORING_NS}),
    )
    values(usual)
    found = values(slow)
    assert slow.steps == usual.steps
    assert found["candidate"] > found["base"] + 3 * SCORING_NS


def test_a_side_that_is_there_is_not_called_again() -> None:
    sides = sides_of_a_pair()
    slow = sides.states["base"][0]
    slow.recipe = replace(slow.recipe, learning_rate=slow.recipe.learning_rate / 3)
    values(sides)
    last = max(place for place, (name, _) in enumerate(sides.asked) if name == "candidate")
    assert sides.asked[last] == ("candidate", "score")
    assert [kind for name, kind in sides.asked[last + 1 :] if name == "base"].count("step") >= 4


def test_the_target_out_of_reach_is_lost_quality() -> None:
    sides = sides_of_a_pair()
    sides.candidate.step = lambda tokens: torch.tensor(0.01)  # says that it learns
    with pytest.raises(SideFailed, match=r"nats above a bigram table's after 60 steps") as failed:
        values(sides, steps=60)
    assert (failed.value.side, failed.value.kind) == ("candidate", "quality_loss")


def test_learning_the_held_out_text_by_heart_does_not_help() -> None:
    """Trained on all that was ever scored, on top of the batches: what is scored next is new, so that is just more text."""
    honest, hoarding = sides_of_a_pair(), sides_of_a_pair()
    trainer = hoarding.candidate
    seen: list[torch.Tensor] = []
    answer, step = trainer.logits, trainer.step

    def logits(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids[:8])
        found: torch.Tensor = answer(ids)
        return found

    trainer.logits = logits
    trainer.step = lambda tokens: step(seen.pop() if seen else tokens)
    assert values(hoarding)["candidate"] > 0.9 * values(honest)["candidate"]


def test_the_deciding_scoring_is_proven_to_be_causal() -> None:
    sides = sides_of_a_pair()
    honest = sides.candidate.logits

    def logits(ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = honest(ids)
        found[:, :-1] += torch.nn.functional.one_hot(ids[:, 1:], 128)
        return found

    sides.candidate.logits = logits
    with pytest.raises(SideFailed, match="uses future tokens") as failed:
        values(sides)
    assert failed.value.kind == "wrong_output"


def test_both_sides_get_the_same_batches_and_the_same_held_out_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = sides_of_a_pair()
    sent: dict[str, list[bytes]] = {"base": [], "candidate": []}
    scored: dict[str, list[bytes]] = {"base": [], "candidate": []}
    call, once = sides.call, Scoring.once

    def watched(name: str, inputs: Any, outputs: Any, **options: Any) -> Any:
        if "tokens" in inputs:
            sent[name].append(inputs["tokens"].tobytes())
        return call(name, inputs, outputs, **options)

    def watched_once(self: Scoring, name: str, ids: Any) -> Any:
        scored[name].append(ids.tobytes())
        return once(self, name, ids)

    monkeypatch.setattr(sides, "call", watched)
    monkeypatch.setattr(Scoring, "once", watched_once)
    values(sides, seed=5)
    assert sent["base"] == sent["candidate"] and len(set(sent["base"])) == len(sent["base"]) > 10
    assert scored["base"] == scored["candidate"] and len(set(scored["base"])) == len(scored["base"]) > 1


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((100, 300), (200, 100), 150),
        ((100, 300), (200, 200), 200),  # exactly there
        (None, (200, 100), 200),  # there at the first scoring
        ((100, 201), (200, 0), 100),
    ],
)
def test_between_two_scorings_time_is_interpolated(
    before: tuple[int, int] | None, now: tuple[int, int], expected: int
) -> None:
    assert reached_ns(before, now, 200) == expected


@pytest.mark.long
@pytest.mark.parametrize("preset", ["demo", "standard"])
def test_the_shipped_recipe_reaches_the_target_long_before_the_cap(preset: str) -> None:
    suite = time_to_loss(preset)
    for number in range(3):
        problem = draw(suite, number)
        assert isinstance(problem, LanguageProblem)
        sides = InProcessSides(suite, problem)
        assert isinstance(suite.trial, TimeToLossTrial)
        suite.trial.run(problem, sides, random.Random(number))
        assert sides.steps["base"] * 2 < suite.trial.steps


@needs_cuda("time_to_loss was not trained on one")
def test_training_on_cuda_reaches_the_target_in_as_many_steps() -> None:
    sides = sides_of_a_pair()
    frames = {name: (str(v.dtype), v.shape, v.tobytes()) for name, v in sides.problem.weights.items()}
    sides.states["candidate"] = sides.half.build({**sides.problem.config, "device": "cuda"}, frames)
    values(sides)
    assert abs(sides.steps["candidate"] - sides.steps["base"]) <= 4


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_both_sides_get_there_and_one_that_only_says_so_does_not(open_folder: Path) -> None:
    suite, trees = time_to_loss("tiny"), Trees(open_folder)
    suite = replace(suite, race=replace(suite.race, steps=48))
    record = trees.measure(suite, trees.shipped)
    found = dict(record.calls)
    assert set(found) == {"base", "candidate"} and min(found.values()) > 1_000_000
    assert sum(found.values()) < 2 * record.timed_ns
    with pytest.raises(SideFailed, match="the target is") as failed:
        trees.measure(suite, trees.appended(TRAINER, IDLES))
    assert (failed.value.side, failed.value.kind) == ("candidate", "quality_loss")
