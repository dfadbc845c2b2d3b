"""Rows: ways to be paid for nothing, or twice, that need code which knows that it is measured. As expected pay over honest play's.

Where there is no gain to be honest about, the ratio is to the full award of the smallest gain that counts (1 %). A row that
misses says what a rule does not hold; nothing here decides a verdict.
"""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.judging.noise_models import gaussian
from benchmarks.power.batch import Counts, Values
from benchmarks.power.cells import PLAN, Cell, submissions
from benchmarks.power.disguises import ENDED, later_pay, persistent, self_ended
from benchmarks.power.partner import SLOWDOWNS, SPREADS, Controls, seats, slowdowns
from benchmarks.power.pay import Pay, cost_row, trick_row
from benchmarks.power.strategies import ATTEMPTS, NOISES
from benchmarks.report import Row
from benchmarks.statistics.gate import LOOKS

GAINS = (0.02, 0.05, 0.10)
ABORTED_BELOW = (0.1, 0.25, 0.5)  # shares of the bounds that a run which ends itself does not let come about
ADDED = 0.005
PATCHES = 3  # that an honest person tries against one base


def abuse_rows(runs: int) -> Iterator[Row]:
    """All rows, `runs` simulated contributors each."""
    for seed, noise in enumerate(NOISES):
        yield from _slowed_partner(noise, runs, 15_000 + 100 * seed)
        yield from _near_copy(noise, runs, 16_000 + 100 * seed)
        yield from _conditional_abort(noise, runs, 17_000 + 100 * seed)
        yield from _honest_costs(noise, runs, 17_050 + 100 * seed)
        yield from _withdrawal(noise, runs, 18_000 + 100 * seed)


def _slowed_partner(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """No gain at all: base is made slow, by what pays best."""
    worth = Pay(PLAN.minimum_effect_log, 0.0)
    for spread in SPREADS:
        compared = slowdowns(gaussian, spread, runs, seed)
        controls = Controls(compared, seats(noise.model, noise.sd, compared.count, seed + 1))
        paid = [
            Pay.of(controls.paid(submissions(noise, runs, seed + 2, math.expm1(slow)), slowdown=slow))
            for slow in SLOWDOWNS
        ]
        best = max(paid, key=lambda each: each.mean)
        yield trick_row(
            f"a partner slowed down, over a 1% gain's award: {noise.name}, base's spread {spread:.0%}",
            best.over(worth),
            runs,
        )


def _near_copy(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """A confirmed gain, handed in again with a few lines changed: it is measured against the confirmed one as well."""
    for gain in GAINS:
        honest = Pay.of(submissions(noise, runs, seed, gain).paid)
        if honest.mean <= 0.0:
            continue
        for added in (0.0, ADDED):
            over_base = submissions(
                noise, runs, seed + 1, math.expm1(math.log1p(gain) + math.log1p(added))
            ).paid
            over_confirmed = submissions(noise, runs, seed + 2, added).paid
            name = f"{gain:.0%}, a near copy of it that adds {added:.1%}: {noise.name}"
            yield trick_row(name, Pay.of(np.minimum(over_base, over_confirmed)).over(honest), runs)


def _conditional_abort(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """Code that ends its own run when it goes badly. That is an event of the candidate, and its verdict is final."""
    for gain in GAINS:
        taken = submissions(noise, runs, seed, gain)
        honest = Pay.of(taken.paid)
        if honest.mean <= 0.0:
            continue
        once = max((Pay.of(aborted(taken.paid, share)) for share in ABORTED_BELOW), key=lambda pay: pay.mean)
        name = f"{gain:.0%}, ended by itself when it goes badly, the same candidate: {noise.name}"
        yield trick_row(name, once.over(honest), runs)
        disguised = self_ended(taken, ATTEMPTS)
        name = f"{gain:.0%}, the same in up to {ATTEMPTS} disguises, knowing each bound before its end: {noise.name}"
        yield trick_row(name, disguised.over(honest), runs)
        kept = persistent(taken, ATTEMPTS)
        name = f"{gain:.0%}, the same, over {ATTEMPTS} disguises whose runs all go to their end: {noise.name}"
        yield trick_row(name, disguised.over(kept), runs)


def _honest_costs(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """What the rule about earlier confirmations costs people who try different patches and end no run."""
    for gain in GAINS:
        taken, before = (submissions(noise, runs, seed + number, gain) for number in range(2))
        first = Pay.of(taken.paid[taken.passed])
        if first.mean <= 0.0:
            continue
        tried, without = (persistent(taken, PATCHES, has_rule=has_rule) for has_rule in (True, False))
        name = f"{gain:.0%}, {PATCHES} honest different patches until one is paid: {noise.name}"
        yield cost_row(name, tried.over(without), runs, "that without the rule about earlier confirmations")
        ended = Pay.of(later_pay(taken, ENDED)[taken.passed])
        name = f"{gain:.0%}, the next patch after a confirmation that ended without a bound: {noise.name}"
        yield cost_row(name, ended.over(first), runs, "a first confirmation's")
        lowest = np.random.default_rng(seed + 2).choice(before.bound[before.passed], runs)
        mended = Pay.of(later_pay(taken, lowest)[taken.passed])
        name = f"{gain:.0%}, the next patch after one that was confirmed and failed a rail: {noise.name}"
        yield cost_row(name, mended.over(first), runs, "a first confirmation's")


def _withdrawal(noise: Cell, runs: int, seed: int) -> Iterator[Row]:
    """Withdrawn at a look where the gate did not pass. From its first sample on a candidate is not taken again."""
    for gain in GAINS:
        taken = submissions(noise, runs, seed, gain)
        honest = Pay.of(taken.paid)
        if honest.mean <= 0.0:
            continue
        ways = (Pay.of(withdrawn(taken.paid, taken.look, look)) for look in LOOKS)
        name = f"{gain:.0%}, withdrawn at a look where it did not pass: {noise.name}"
        yield trick_row(name, max(ways, key=lambda pay: pay.mean).over(honest), runs)


def withdrawn(paid: Values, looks: Counts, look: int) -> Values:
    """[contributors] of pay: they withdraw at this look unless the gate has passed by then; nothing is paid then."""
    kept: Values = np.where(looks <= look, paid, 0.0)
    return kept


def aborted(paid: Values, share: float) -> Values:
    """[contributors] of pay: the run ends itself where its bound would be among the lowest `share`; nothing is paid then."""
    kept: Values = np.where(paid >= np.quantile(paid, share), paid, 0.0)
    return kept
