"""A message brings what the catalogue says, and nothing of the messages after it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pytest

from benchmarks.catalogue import BUG
from benchmarks.catalogue import SUITES as CATALOGUE
from benchmarks.pairs.seeds import Seeds
from benchmarks.suites import SUITES, Suite, get_suite
from benchmarks.suites.base import Exchange, Problem, Tensors, TensorSpec, joined
from tests.benchmarks.suites.language_sides import InProcessSides
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, draw

pytestmark = pytest.mark.slow

CALLED = [name for name in SUITES if get_suite(name, "tiny").trial is None]


def first_timed_call(suite: Suite, problem: Problem) -> tuple[Tensors, tuple[Exchange, ...]]:
    inputs: Tensors = {}
    for turn in (-1, 0):
        problem.before(Seeds(SECRET).numbers("before", turn), turn)
        inputs = problem.draw_inputs(Seeds(SECRET).numbers("inputs", turn), turn)
    return inputs, problem.exchanges(inputs)


@pytest.mark.parametrize("name", CALLED)
def test_a_call_has_the_messages_that_the_catalogue_states(name: str) -> None:
    suite = get_suite(name, "tiny")
    _, exchanges = first_timed_call(suite, draw(suite))
    sent = [names for names, _ in groupby(tuple(exchange.inputs) for exchange in exchanges)]
    assert [sorted(names) for names in sent] == [sorted(m.inputs) for m in CATALOGUE[name].messages]


@dataclass
class Recorded(InProcessSides):
    """Sides that keep the names of what each call was given."""

    sent: list[tuple[str, ...]] = field(default_factory=list)

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        self.sent.append(tuple(inputs))
        return super().call(name, inputs, outputs, is_timed=is_timed)


@pytest.mark.parametrize("name", ["time_to_loss", "quality", "peak_memory", "mixed_load"])
def test_a_trial_has_the_messages_that_the_catalogue_states(name: str) -> None:
    suite = get_suite(name, "tiny")
    sides = Recorded(suite, draw(suite))
    assert suite.trial is not None
    suite.trial.run(sides.problem, sides, random.Random(1))
    stated = [frozenset(message.inputs) for message in CATALOGUE[name].messages]
    assert {frozenset(names) for names in sides.sent} == set(stated)


def test_every_suite_says_what_a_caller_of_the_stack_knows() -> None:
    for name, info in CATALOGUE.items():
        assert bool(info.messages and info.caller) == (name != BUG.name)


@pytest.mark.parametrize("name", CALLED)
def test_the_messages_of_a_call_bring_all_its_inputs_once(name: str) -> None:
    suite = get_suite(name, "tiny")
    inputs, exchanges = first_timed_call(suite, draw(suite))
    sent = joined(
        [{key: value for key, value in each.inputs.items() if key != "is_new"} for each in exchanges]
    )
    for key, value in sent.items():
        np.testing.assert_array_equal(value.ravel(), inputs[key].ravel())
    assert sent.keys() == inputs.keys() - {"is_new"}


def test_a_step_of_decode_is_one_id_of_one_sequence() -> None:
    suite = get_suite("decode", "tiny")
    _, exchanges = first_timed_call(suite, draw(suite))
    assert len(exchanges) == 2
    for place, exchange in enumerate(exchanges):
        assert exchange.inputs["ids"].size == 1 and exchange.inputs["places"].tolist() == [place]


def test_batches_of_one_call_are_a_message_each() -> None:
    suite = get_suite("moe_forward", "standard")
    problem = suite.problem(
        suite.cases[0].draw(Seeds(SECRET).numbers("shape")), Seeds(SECRET).numbers("problem")
    )
    inputs, exchanges = first_timed_call(suite, problem)
    assert len(exchanges) == problem.shape["block"] == 2  # type: ignore[attr-defined]
    for number, exchange in enumerate(exchanges):
        np.testing.assert_array_equal(exchange.inputs["x"][0], inputs["x"][number])
        assert not np.shares_memory(exchange.inputs["x"], inputs["x"][1 - number])


def test_answers_of_one_name_follow_each_other() -> None:
    first, second = {"y": np.zeros((1, 2)), "n": np.zeros(1)}, {"y": np.ones((3, 2))}
    whole = joined([first, second])
    assert whole["y"].tolist() == [[0, 0]] + [[1, 1]] * 3 and whole["n"].tolist() == [0]


@pytest.mark.parametrize("name", ["decode", "moe_backward", "train_step"])
def test_a_sample_answers_a_message_before_it_has_the_next(name: str) -> None:
    suite = get_suite(name, "tiny")
    problem = draw(suite)
    first, second = InProcess(suite, problem), InProcess(suite, problem)
    inputs: list[Tensors] = [
        problem.draw_inputs(Seeds(SECRET).numbers("inputs", turn), turn) for turn in (-1, 0)
    ]
    for side in (first, second):
        side.ask(inputs[0])
    whole = first.ask(inputs[1])
    alone = second.send(problem.exchanges(inputs[1])[0])
    for key, value in alone.items():
        np.testing.assert_array_equal(value, whole[key][: len(value)])
