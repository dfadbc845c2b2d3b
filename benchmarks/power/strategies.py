"""Rows: what a rational contributor could try instead of submitting a gain once, as expected pay over honest play's.

Honest play is one submission of the whole gain, judged to the end. A ratio of at most 1 means that the trick does not
pay. Where there is no gain to be honest about, the ratio is to the full award of the smallest gain that counts (1 %).
Costs of trying (time, attempts that are used up) are not charged, so ratios are upper bounds.
"""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.judging.noise_models import gaussian as normal
from benchmarks.judging.noise_models import heavy_tails, two_modes
from benchmarks.power.batch import Values
from benchmarks.power.cells import PLAN, Cell, submissions
from benchmarks.power.disguises import persistent, self_ended
from benchmarks.power.pay import Pay, trick_row
from benchmarks.report import Row

ATTEMPTS = 10  # of one person at one bounty, as bounties are posted by default
REDRAWS = 5
PIECES = (2, 5)
GAINS = (0.02, 0.05, 0.10, 0.20)
NOISES = (
    Cell("gaussian, sd 1%", normal, 0.01),
    Cell("gaussian, sd 2%", normal, 0.02),
    Cell("heavy tails, sd 2%", heavy_tails, 0.02),
    Cell("two equal modes, sd 2%", two_modes, 0.02),
)


def strategy_rows(runs: int) -> Iterator[Row]:
    """All strategies, `runs` simulated contributors each."""
    for seed, noise in enumerate(NOISES):
        yield from _splitting(noise, runs, 100 * seed)
    for seed, noise in enumerate(NOISES):
        yield from _no_gain(noise, runs, 6_000 + 100 * seed)
    for seed, noise in enumerate(NOISES):
        yield from _again(noise, runs, 7_000 + 100 * seed)
    for seed, noise in enumerate(NOISES):
        yield from _worth_nothing_twice(noise, runs, 8_000 + 100 * seed)


def _splitting(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """One gain in k patches, each measured against the tree with those before it."""
    for gain in GAINS:
        whole = Pay.of(submissions(noise, runs, seed, gain).paid)
        for pieces in PIECES:
            piece = math.expm1(math.log1p(gain) / pieces)
            parts = Pay.of(submissions(noise, runs, seed + 1, piece).paid, pieces)
            yield trick_row(f"{gain:.0%} split into {pieces} patches: {noise.name}", parts.over(whole), runs)


def _no_gain(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """Patches without a gain that counts, again and again."""
    worth = Pay(PLAN.minimum_effect_log, 0.0)
    for gain in (0.0, 0.005):
        pooled = Pay.of(submissions(noise, runs, seed, gain, is_continued=True).paid)
        yield trick_row(
            f"a {gain:.1%} gain measured on until no look is left, over a 1% gain's award: {noise.name}",
            pooled.over(worth),
            runs,
        )
        disguised = Pay.of(first_success(_many(noise, max(1, runs // 2), seed + 1, gain, ATTEMPTS)))
        yield trick_row(
            f"a {gain:.1%} gain in {ATTEMPTS} disguises, over a 1% gain's award: {noise.name}",
            disguised.over(worth),
            max(1, runs // 2),
        )


def _again(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """True gains with another draw where the first one disappointed."""
    for gain in (0.01, 0.02, 0.05):
        once = Pay.of(submissions(noise, runs, seed, gain).paid)
        if once.mean <= 0.0:
            continue
        full = math.log1p(gain)
        pooled = Pay.of(submissions(noise, runs, seed + 1, gain, is_continued=True).paid)
        yield trick_row(
            f"{gain:.0%}, measured on past its end, as a maintainer may order: {noise.name}",
            pooled.over(once),
            runs,
            pooled,
            full,
        )
        people = max(1, runs // 2)
        taken = submissions(noise, people * ATTEMPTS, seed + 2, gain)
        many = taken.paid.reshape(people, ATTEMPTS)
        disguised = persistent(taken, ATTEMPTS)
        yield trick_row(
            f"{gain:.0%}, resubmitted in up to {ATTEMPTS} disguises: {noise.name}",
            disguised.over(once),
            len(many) * ATTEMPTS,
            disguised,
            full,
        )
        # Pairs done are shown, so an impatient author sees that a run continues past 12 and withdraws it.
        through = np.where(taken.look <= 12, taken.paid, 0.0).reshape(people, ATTEMPTS)
        impatient = Pay.of(first_success(through))
        yield trick_row(
            f"{gain:.0%}, withdrawn unless through at 12 pairs, up to {ATTEMPTS} disguises: {noise.name}",
            impatient.over(once),
            people,
            impatient,
            full,
        )
        redrawn = self_ended(taken, REDRAWS)
        yield trick_row(
            f"{gain:.0%}, a low award given back and drawn again, up to {REDRAWS} disguises: {noise.name}",
            redrawn.over(once),
            len(many) * ATTEMPTS,
            redrawn,
            full,
        )
        against_own = _many(noise, people, seed + 4, 0.0, REDRAWS - 1)
        paid = np.where(many[:, :1] > 0, np.hstack([many[:, :1], against_own]), 0.0)
        kept, first = Pay.of(redraw(paid)), Pay.of(many[:, 0])
        if first.mean > 0.0:
            yield trick_row(
                f"{gain:.0%}, the same where what was confirmed stays the best tree: {noise.name}",
                kept.over(first),
                people,
                kept,
                full,
            )


def _worth_nothing_twice(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """Patches that bring nothing new: against the best tree so far their true effect is zero."""
    for gain in (0.02, 0.05):
        honest = Pay.of(submissions(noise, runs, seed, gain).paid)
        nothing = Pay.of(submissions(noise, runs, seed + 1, 0.0).paid)
        name = f"{gain:.0%}, regressed and mended, or copied after its award: {noise.name}"
        yield trick_row(name, nothing.over(honest), runs)
        half = math.expm1(math.log1p(gain) / 2)
        held_back = Pay.of(submissions(noise, runs, seed + 2, half).paid, 2)
        yield trick_row(
            f"{gain:.0%}, half of it held back for later: {noise.name}", held_back.over(honest), runs
        )


def first_success(paid: Values) -> Values:
    """[contributors, attempts] of pay: they stop at the first attempt that earns something."""
    earned = paid > 0
    first = earned.argmax(axis=1)
    taken: Values = np.where(earned.any(axis=1), paid[np.arange(len(paid)), first], 0.0)
    return taken


def redraw(paid: Values) -> Values:
    """[contributors, attempts]: they keep an award only if it is worth more than drawing again, the last always.

    What is worth it is known to them (the mean of what is to come), as it is for an author who measures on their own machine.
    """
    value = np.zeros(len(paid))
    for attempt in reversed(range(paid.shape[1])):
        value = np.where(paid[:, attempt] > value.mean(), paid[:, attempt], value)
    return value


def _many(noise: Cell, runs: int, seed: int, gain: float, attempts: int) -> Values:
    return submissions(noise, runs * attempts, seed, gain).paid.reshape(runs, attempts)
