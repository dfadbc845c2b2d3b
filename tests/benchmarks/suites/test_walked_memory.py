"""No suite's sample holds an input that is still to come: not in frames, not in `gc`, not anywhere in its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pairs.seeds import Seeds
from benchmarks.suites import SUITES, Suite, get_suite
from benchmarks.suites.base import WARM_UP, Exchange, Problem, Tensors
from benchmarks.suites.language import LanguageProblem
from benchmarks.suites.mixed_load import Engine, MixedLoadProblem, Round
from benchmarks.suites.operator_limits import Served
from tests.benchmarks.suites.suite_pairs import SECRET, Trees, draw
from tests.benchmarks.suites.walked_sample import Stop, WalkedSample, pieces

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

STEP = "model/serving/executors/native.py:NativeExecutor.step"
LAYER = "model/layers/moe/layer.py:MoELayer.forward"
TRAIN, SCORE = (f"model/training/run/trainer.py:Trainer.{name}" for name in ("step", "logits"))
LOAD = "model/checkpoint.py:load_transformer"


@dataclass(frozen=True)
class Walk:
    """Where the stack stands still in a suite, which of its dimensions are larger than those of preset tiny."""

    entries: tuple[str, ...]
    stops: int  # of one call
    dimensions: tuple[tuple[str, int], ...] = ()


WALKS = {
    "moe_forward": Walk((LAYER,), 2, (("block", 2),)),
    "moe_backward": Walk((LAYER,), 1),
    "train_step": Walk((TRAIN, SCORE), 2),
    "time_to_loss": Walk((TRAIN, SCORE), 1),
    "quality": Walk((TRAIN, SCORE), 1),
    "prefill": Walk((STEP,), 1),
    "decode": Walk((STEP,), 5, (("sequences", 5),)),
    "decode_batched": Walk((STEP,), 1, (("sequences", 5),)),
    "checkpoint_load": Walk((LOAD, STEP), 2),
    "peak_memory": Walk((STEP,), 1),
    "mixed_load": Walk((STEP,), 1),
}
ALWAYS_WALKED = ("moe_forward", "decode", "train_step")  # one of each kind of message


def sized(name: str) -> Suite:
    """The suite in preset tiny, with the dimensions of its walk."""
    suite = get_suite(name, "tiny")
    own = {key: (value,) for key, value in WALKS[name].dimensions}
    case = suite.cases[0]
    limits = replace(suite.time_limits, call_ms=60_000)
    return replace(suite, cases=(replace(case, dimensions={**case.dimensions, **own}),), time_limits=limits)


def calls(suite: Suite, problem: Problem) -> list[Sequence[Exchange]]:
    """The messages of some calls, drawn before the first of them is sent; the first call is not walked."""
    if isinstance(problem, LanguageProblem):
        return language_calls(problem)
    if isinstance(problem, MixedLoadProblem):
        return steps_of_a_load(problem)
    found: list[Sequence[Exchange]] = []
    for turn in range(WARM_UP if suite.has_warm_up else 0, 2 if suite.has_warm_up else 1):
        before = problem.before(numbers("before", turn), turn)
        drawn = [inputs for inputs in (before, problem.draw_inputs(numbers("inputs", turn), turn)) if inputs]
        found += [problem.exchanges(inputs) for inputs in drawn]
    return found


def language_calls(problem: LanguageProblem) -> list[Sequence[Exchange]]:
    batches = [Exchange(problem.batch(numbers("batch", step)), problem.outputs) for step in range(3)]
    scored: Tensors = {"held_out": np.ascontiguousarray(problem.unseen(numbers("held-out", 0))[:, :-1])}
    return [*[(batch,) for batch in batches], (Exchange(scored, problem.scored),)]


def steps_of_a_load(problem: MixedLoadProblem) -> list[Sequence[Exchange]]:
    """The steps before which requests arrive; no request goes on after its first token."""
    load = Round.drawn(problem, numbers("round", 0))
    engine = Engine(load, Served(load.requests))
    found: list[Sequence[Exchange]] = []
    for _ in range(1 + max(request.arrives_at for request in load.requests)):
        found.append((Exchange(engine.message(), problem.outputs),))
        engine.served.take([])
    return found


def numbers(label: str, turn: int) -> np.random.Generator:
    return Seeds(SECRET).numbers(label, turn)


def whole_numbers(call: Sequence[Exchange]) -> list[int]:
    """The ids that several messages of a call bring, in one row: too few in one of them to be recognised."""
    return [int(number) for exchange in call for number in exchange.inputs.get("ids", np.empty(0)).ravel()]


def as_one(call: Sequence[Exchange]) -> Tensors:
    """The ids that a message with the whole call in it would hold."""
    ids = [exchange.inputs["ids"] for exchange in call if "ids" in exchange.inputs]
    return {"ids": np.concatenate(ids)} if len(ids) > 1 else {}


def assert_unknown(stop: Stop, call: Sequence[Exchange], at: int, later: list[Sequence[Exchange]]) -> None:
    """Nothing of the messages after the one at `at`, nor of later calls."""
    to_come = [*call[at + 1 :], *[exchange for each in later for exchange in each]]
    for exchange in to_come:
        assert not any(stop.holds(piece) for piece in pieces(exchange.inputs))
    for each in ([call[at:]] if at + 1 < len(call) else []) + later:
        assert not any(stop.holds(piece) for piece in pieces(as_one(each)))
        ids = whole_numbers(each)
        assert len(ids) < 2 or not stop.shows(ids)


def assert_known(stop: Stop, exchange: Exchange) -> None:
    """The search finds what the process has: the message of this moment."""
    brought = pieces(exchange.inputs)
    assert all(stop.holds(piece) for piece in brought)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    folder = Path(tmp_path_factory.mktemp("walked", numbered=True))
    for each in (folder, *folder.parents[:3]):
        each.chmod(0o755)
    return Trees(folder)


def test_every_suite_is_walked() -> None:
    assert set(WALKS) == set(SUITES)


@pytest.mark.parametrize(
    "name",
    [name if name in ALWAYS_WALKED else pytest.param(name, marks=pytest.mark.long) for name in WALKS],
)
def test_a_sample_knows_no_input_that_is_still_to_come(name: str, trees: Trees) -> None:
    suite, walk = sized(name), WALKS[name]
    problem = draw(suite)
    planned = calls(suite, problem)
    sample = WalkedSample(suite, problem, trees, walk.entries)
    known = 0
    with sample.started():
        for number, call in enumerate(planned):
            stops = sample.stops(call)
            if number == 0 and len(planned) > 1:
                if "ids" in call[0].inputs:  # the search sees lists of whole numbers as well
                    assert stops[0].shows(call[0].inputs["ids"][: call[0].inputs["lengths"][0]].tolist())
                continue
            if not stops and name == "mixed_load":  # a step without work: no request had arrived
                continue
            assert len(stops) == (walk.stops if len(call) > 1 or walk.stops == 1 else len(stops))
            for at, stop in enumerate(stops):
                assert_unknown(stop, call, at, planned[number + 1 :])
                assert_known(stop, call[at])
                known += len(pieces(call[at].inputs))
    assert known or name == "decode"  # whose messages are one id each


@pytest.mark.parametrize("name", ["moe_forward", "decode"])
def test_the_search_finds_an_input_that_came_along_with_the_call_before_it(name: str, trees: Trees) -> None:
    """What messages were before: those of a few calls in one."""
    suite, walk = sized(name), WALKS[name]
    problem = draw(suite)
    begin, call = calls(suite, problem)[:2]
    along = as_one(call) or {"later": call[1].inputs["x"]}
    first = Exchange(
        {**call[0].inputs, **{f"{key}_along": value for key, value in along.items()}}, call[0].outputs
    )
    sample = WalkedSample(suite, problem, trees, walk.entries)
    with sample.started():
        sample.stops(begin)
        stop, *_ = sample.stops([first, *call[1:]])
        assert all(stop.holds(piece) for piece in pieces(along))
        if name == "decode":
            assert not stop.shows(whole_numbers(call))
