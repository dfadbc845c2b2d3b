"""Suite mixed_load: what users feel while long prompts are read, and what an operator set."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.catalogue import SUITES as CATALOGUE
from benchmarks.catalogue import guarding_suites
from benchmarks.catalogue.serving import BETWEEN_TOKENS, CHATS, FIRST_TOKEN, REQUESTS
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites import get_guard_suite
from benchmarks.suites.base import Tensors, TensorSpec
from benchmarks.suites.mixed_load import Engine, MixedLoad, MixedLoadProblem, Round, mixed_load
from benchmarks.suites.operator_limits import Served
from tests.benchmarks.suites.language_sides import SCORING_NS, InProcessSides
from tests.benchmarks.suites.suite_pairs import SECRET, Trees, draw

pytestmark = pytest.mark.slow

SCHEDULER = "model/serving/engine/scheduler.py"
# The patch that passed the gate of `prefill`: a step of eight times its tokens.
EIGHTFOLD = """

_honest = Scheduler.__init__


def _init(self, pool, **limits):
    _honest(self, pool, **limits | {"step_tokens": 8 * limits["step_tokens"]})


Scheduler.__init__ = _init
"""


class Sides(InProcessSides):
    """Sides whose steps take as long as the tokens they compute; keeps all messages."""

    messages: list[tuple[str, Tensors]]

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        self.messages.append((name, inputs))
        scheduler, computed = self.scheduler(name), []
        honest = scheduler.schedule

        def schedule(now_ns: int) -> Any:
            plan = honest(now_ns)
            computed.extend(work.n_new for work in plan.works)
            return plan

        scheduler.schedule = schedule
        try:
            answers, _ = super().call(name, inputs, outputs, is_timed=is_timed)
        finally:
            scheduler.schedule = honest
        return answers, SCORING_NS + 10_000 * sum(computed)

    def scheduler(self, name: str) -> Any:
        return self.states[name]._engine.scheduler


def sides_of(suite: MixedLoad, case: int = 0) -> Sides:
    sides = Sides(suite, draw(suite, case=case))
    sides.messages = []
    return sides


def values(sides: Sides) -> dict[str, int]:
    trial = mixed_load("tiny").trial
    return trial.run(sides.problem, sides, random.Random(1))


@pytest.fixture(params=[BETWEEN_TOKENS, FIRST_TOKEN])
def sides(request: pytest.FixtureRequest) -> Sides:
    return sides_of(mixed_load("tiny"), request.param)


def test_the_shipped_engine_passes_and_equal_engines_feel_equal(sides: Sides) -> None:
    found = values(sides)
    assert found["base"] == found["candidate"] > SCORING_NS
    assert sides.proofs == 4  # prompts and last tokens of two rounds


def test_nothing_of_a_request_is_sent_before_it_arrives(sides: Sides) -> None:
    values(sides)
    mine = [inputs for name, inputs in sides.messages if name == "base"]
    arrived = [inputs["arrived"][:, 0].tolist() for inputs in mine[:7]]
    assert arrived[0] == list(range(CHATS)) and arrived[1] == arrived[2] == []
    assert len(arrived[3]) == 2 and len(arrived[4]) == 2 and len(arrived[5]) == 2
    for inputs in mine:
        assert inputs["prompts"].size == inputs["arrived"][:, 1].sum()
        assert len(inputs["continued"]) <= REQUESTS


def test_an_id_follows_the_answer_that_it_could_be_sampled_from() -> None:
    problem = draw(mixed_load("tiny"))
    assert isinstance(problem, MixedLoadProblem)
    load = Round.drawn(problem, Seeds(SECRET).numbers("round"))
    engine = Engine(load, Served(load.requests))
    assert engine.message()["continued"].size == 0
    engine.take(answer_of(problem, [1]), 1)
    assert engine.message()["continued"].tolist() == [[1, load.next_ids[0][1]]]
    engine.take(answer_of(problem, []), 1)
    assert engine.message()["continued"].size == 0


def answer_of(problem: MixedLoadProblem, places: list[int]) -> Tensors:
    produced = np.zeros(REQUESTS, np.int64)
    produced[places] = 1
    return {"produced": produced, "logits": np.zeros((REQUESTS, problem.shape["vocab"]), np.float32)}


def steps_of_eightfold_tokens(scheduler: Any) -> None:
    scheduler.step_tokens *= 8


def twice_as_many_at_once(scheduler: Any) -> None:
    scheduler.max_running *= 2


def priorities_upside_down(scheduler: Any) -> None:
    honest = scheduler.add

    def add(sequence: Any, now_ns: int) -> None:
        sequence.priority = -sequence.priority
        honest(sequence, now_ns)

    scheduler.add = add


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (steps_of_eightfold_tokens, "step_tokens"),
        (twice_as_many_at_once, "max_running"),
        (priorities_upside_down, "priorit"),
    ],
)
def test_what_an_operator_set_is_honoured(sides: Sides, breaks: Callable[[Any], None], words: str) -> None:
    breaks(sides.scheduler("candidate"))
    with pytest.raises(SideFailed, match=words) as failed:
        values(sides)
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")


def test_smaller_steps_let_tokens_come_sooner_and_prompts_later() -> None:
    felt = {}
    for case in (BETWEEN_TOKENS, FIRST_TOKEN):
        sides = sides_of(mixed_load("tiny"), case)
        sides.scheduler("candidate").step_tokens //= 2
        felt[case] = values(sides)
    between, first = felt[BETWEEN_TOKENS], felt[FIRST_TOKEN]
    assert between["candidate"] < 0.8 * between["base"]
    assert first["candidate"] > 1.03 * first["base"]


def test_chats_that_wait_while_a_prompt_is_read_are_felt() -> None:
    sides = sides_of(mixed_load("tiny"), BETWEEN_TOKENS)
    scheduler = sides.scheduler("candidate")
    honest = scheduler._decodes

    def prompts_first(plan: Any) -> Any:
        return [] if any(each.n_left > 1 for each in scheduler.running) else honest(plan)

    scheduler._decodes = prompts_first
    found = values(sides)
    assert found["candidate"] > 1.3 * found["base"]


def test_a_heavy_owner_that_goes_first_is_felt() -> None:
    sides = sides_of(mixed_load("tiny"), FIRST_TOKEN)
    scheduler = sides.scheduler("candidate")
    scheduler.turns.charge = lambda owner, n_tokens: None  # first come, first served
    found = values(sides)
    assert found["candidate"] > 1.05 * found["base"]


def test_a_request_that_is_never_answered_is_told() -> None:
    sides = sides_of(mixed_load("tiny"))
    scheduler = sides.scheduler("candidate")
    honest = scheduler._prefills
    scheduler._prefills = lambda: [each for each in honest() if each.n_prompt < 50]
    with pytest.raises(SideFailed, match="without an answer") as failed:
        values(sides)
    assert failed.value.side == "candidate"


def test_a_wrong_token_of_any_request_is_found(sides: Sides) -> None:
    engine = sides.states["candidate"]._engine
    honest = engine.step

    def step(plan: Any) -> Any:
        rows = honest(plan)
        rows[-1] *= 1.001
        return rows

    engine.step = step
    with pytest.raises(SideFailed, match="logits") as failed:
        values(sides)
    assert failed.value.side == "candidate"


def test_it_guards_every_other_suite_and_pays_for_no_bounty() -> None:
    info = CATALOGUE["mixed_load"]
    assert not info.presets and info.guard is not None
    assert info in [suite for suite, _ in guarding_suites("prefill", "demo")]
    cases = [case["name"] for case in get_guard_suite("prefill", "demo").describe()["cases"]]
    assert [name for name in cases if name.startswith("mixed_load/")] == [
        "mixed_load/between-tokens",
        "mixed_load/first-token",
    ]


def test_limits_are_drawn_for_each_pair() -> None:
    drawn = {draw(mixed_load("demo"), number).shape["step_tokens"] for number in range(12)}  # type: ignore[attr-defined]
    assert len(drawn) > 1


@pytest.mark.long
@pytest.mark.sandbox
def test_in_real_sandboxes_the_stack_passes_and_larger_steps_do_not(open_folder: Path) -> None:
    suite, trees = mixed_load("tiny"), Trees(open_folder)
    record = trees.measure(suite, trees.shipped)
    assert sorted(side for side, _ in record.calls) == ["base", "candidate"]
    assert all(value > 0 for _, value in record.calls) and record.oracle_checked == 4
    with pytest.raises(SideFailed, match="step_tokens") as failed:
        trees.measure(replace(suite), trees.appended(SCHEDULER, EIGHTFOLD))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
