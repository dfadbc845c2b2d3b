"""Turns of several sides: one awake at a time, in changing order, within a budget, without those that fail."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from benchmarks.peers.turns import Budget, take_turns
from benchmarks.report import MeasuringFailed


class Sleeper:
    """A side that knows whether it is awake."""

    def __init__(self) -> None:
        self.is_awake = False

    def freeze(self) -> None:
        self.is_awake = False

    def thaw(self) -> None:
        self.is_awake = True


def run(
    sides: dict[str, Sleeper], do: Any, *, tasks: tuple[str, ...] = ("a", "b"), **options: Any
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    settings = {"budget": Budget(60, 2, 3), "order": random.Random(5), "say": lambda text: None, **options}
    return take_turns(sides, tasks, do, **settings)


def test_each_side_does_each_task_once_a_round_alone_awake_and_the_warm_up_is_not_kept() -> None:
    sides = {name: Sleeper() for name in ("x", "y", "z")}
    done: list[tuple[int, str, str]] = []

    def do(name: str, task: str, number: int) -> dict[str, Any]:
        assert [other for other, side in sides.items() if side.is_awake] == [name]
        done.append((number, task, name))
        return {"round": number}

    answers = run(sides, do)
    assert [number for number, _, _ in done] == sorted(number for number, _, _ in done)
    for number in range(4):
        for task in ("a", "b"):
            assert sorted(name for at, what, name in done if (at, what) == (number, task)) == ["x", "y", "z"]
    assert answers["b"]["z"] == [{"round": 1}, {"round": 2}, {"round": 3}]
    assert not any(side.is_awake for side in sides.values())


def test_the_order_of_sides_changes() -> None:
    sides = {name: Sleeper() for name in ("x", "y", "z")}
    first: list[str] = []
    awake_first: dict[tuple[int, str], str] = {}

    def do(name: str, task: str, number: int) -> dict[str, Any]:
        awake_first.setdefault((number, task), name)
        return {}

    run(sides, do, budget=Budget(60, 2, 10))
    first = list(awake_first.values())
    assert set(first) == {"x", "y", "z"}


def test_rounds_end_with_the_budget_but_not_before_the_least() -> None:
    def do(name: str, task: str, number: int) -> dict[str, Any]:
        time.sleep(0.02)
        return {}

    few = run({"x": Sleeper()}, do, budget=Budget(0.0, 2, 50), tasks=("a",))
    assert len(few["a"]["x"]) == 2
    more = run({"x": Sleeper()}, do, budget=Budget(0.2, 1, 50), tasks=("a",))
    assert 2 <= len(more["a"]["x"]) <= 9
    unwarmed = run({"x": Sleeper()}, do, budget=Budget(0.0, 1, 1), tasks=("a",), warm_up=False)
    assert len(unwarmed["a"]["x"]) == 1


def test_a_side_that_fails_is_left_out_and_the_others_continue() -> None:
    said: list[str] = []

    def do(name: str, task: str, number: int) -> dict[str, Any]:
        if name == "y" and (number, task) == (2, "b"):
            raise MeasuringFailed("y has ended")
        return {}

    sides = {"x": Sleeper(), "y": Sleeper()}
    answers = run(sides, do, say=said.append)
    assert {name: len(answers["a"][name]) for name in sides} == {"x": 3, "y": 2}
    assert {name: len(answers["b"][name]) for name in sides} == {"x": 3, "y": 1}
    assert any("y is left out from here on: y has ended" in line for line in said)
    assert not sides["y"].is_awake


def test_without_any_side_left_it_says_so() -> None:
    def do(name: str, task: str, number: int) -> dict[str, Any]:
        raise MeasuringFailed("gone")

    with pytest.raises(MeasuringFailed, match="no side is left"):
        run({"x": Sleeper()}, do)
