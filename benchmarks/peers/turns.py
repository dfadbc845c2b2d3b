"""Rounds of turns: in each round every side does every task once, task by task, the sides in random order.

One side runs at a time; all others are stopped. Rounds continue while another one fits into the time that is left, so a
run ends when it was told to whatever the machine's speed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.report import MeasuringFailed

Answer = dict[str, Any]


class Frozen(Protocol):
    """A process that is stopped until it is its turn; `benchmarks.peers.side.Side` is one."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass(frozen=True)
class Budget:
    """Run at least `least` rounds, at most `most`, and no new one that would end after `seconds` from the first one's start."""

    seconds: float
    least: int
    most: int


def take_turns(
    sides: Mapping[str, Frozen],
    tasks: Sequence[str],
    do: Callable[[str, str, int], Answer],
    *,
    budget: Budget,
    order: random.Random,
    say: Callable[[str], None],
    warm_up: bool = True,
) -> dict[str, dict[str, list[Answer]]]:
    """Answers by task and side, in the order of rounds. `do(side, task, round)` is called with that side awake alone.

    Round 0 warms up and is not kept, unless `warm_up` is false. A side that fails is left out from then on, with what it
    had done, and `say` is told; raises MeasuringFailed when none is left. All sides must be frozen before.
    """
    answers: dict[str, dict[str, list[Answer]]] = {task: {name: [] for name in sides} for task in tasks}
    alive, begun, longest = list(sides), time.monotonic(), 0.0
    rounds = range(0 if warm_up else 1, budget.most + 1)
    for number in rounds:
        started = time.monotonic()
        if number > budget.least and started - begun + longest > budget.seconds:
            break
        for task in tasks:
            for name in order.sample(alive, len(alive)):
                sides[name].thaw()
                try:
                    answer = do(name, task, number)
                except MeasuringFailed as error:
                    say(f"{name} is left out from here on: {error}")
                    alive.remove(name)
                    continue
                finally:
                    sides[name].freeze()
                if number:
                    answers[task][name].append(answer)
        if not alive:
            raise MeasuringFailed("no side is left to measure; see the messages above")
        took = time.monotonic() - started
        longest = max(longest, took) if number else longest
        say(f"round {number}{'' if number else ' (warm-up)'}: {len(alive)} sides in {took:.0f} s")
    return answers
