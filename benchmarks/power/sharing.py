"""Rows: ways to draw more royalties than an honest gain does, by the module that decides real ones.

A contributor's pay is the sum over days of what `benchmarks.sharing` pays, in a world where others spend the same every
day. Canaries are noisy: a bound is the estimate less 1.645 of its standard deviations. Royalties go to booked gains
only, so that a deployment without a new one, such as a mended loss, pays no one, whatever its bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.canary.order import DECODE
from benchmarks.power.pay import Pay, trick_row
from benchmarks.report import Row
from benchmarks.sharing.credits import Gain, line_credits, without_effect
from benchmarks.sharing.lines import measures
from benchmarks.sharing.royalties import Claim, Law, counted, day_pay
from benchmarks.sharing.savings import MILLION, Saving, Served, placed

LAW = Law()
GAINS = (0.05, 0.2)  # nats
SPREADS = (0.005, 0.02)  # of a canary's estimate, in nats
QUANTILE = 1.645
PIECES = (2, 5)
OTHERS_GAIN = 0.1
REDRAWS = 5
CONFIRMED_PPM = MILLION  # the log of the player's gains in their suite, more than any saves in service
WITHOUT_EFFECT_TIMES = 10  # as many runs: 1 canary in 20 errs
DAY_SPENDING = 10**9  # micro-credits before the gains, of others
START = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_MINUTES = 10  # a tree that is 20 % slower than its canary is rolled back within this
CLOCK_SHARE = 0.2
FOUND_AFTER_DAYS, WINDOW_DAYS = 30, 14
MINUTES = 24 * 60
PLAYER, OTHER = 1, 2
LARGEST_PPM = 990_000
NAMES = 5
UNRELATED_GAIN = 2.0  # nats of a gain that changes nothing in service, merged into the same deployment
UNRELATED = ("train_step", "moe_backward", "checkpoint_load", "time_to_loss", "quality", "moe_forward")
SMALL_GAIN, PUSHED = 0.02, 0.3  # nats: a gain, and a saving that no one measured and that lands with it


@dataclass(frozen=True, slots=True)
class Deployed:
    """One step of a play: a tree's true saving compared with the first one in nats, and its day.

    ``gain`` names the player's booked gain in it; empty: it has none that is new. ``lost_day`` is when it is rolled back.
    """

    tree: str
    true_log: float
    day: int
    gain: str = ""
    lost_day: int | None = None


def sharing_rows(runs: int) -> Iterator[Row]:
    """All rows, `runs` simulated contributors each where canaries are noisy."""
    for number, (gain, spread) in enumerate((gain, spread) for gain in GAINS for spread in SPREADS):
        yield from _deployments(gain, spread, runs, 30_000 + 100 * number)
    for number, spread in enumerate(SPREADS):
        yield _without_effect(spread, WITHOUT_EFFECT_TIMES * runs, 40_000 + number)
    yield from _in_company()
    yield from _traffic()
    yield from _canary_only()


def _deployments(gain: float, spread: float, runs: int, seed: int) -> Iterator[Row]:
    """Tricks with deployments, against the same gain deployed once."""
    noise = f"a gain of {gain:.0%}, canary's sd {spread:.1%}"
    honest = _pay([Deployed("a", gain, 0, "a")], spread, runs, seed)
    for pieces in PIECES:
        parts = [
            Deployed(f"t{each}", gain * each / pieces, each - 1, f"g{each}") for each in range(1, pieces + 1)
        ]
        yield _row(f"split into {pieces} deployments: {noise}", parts, honest, spread, runs, seed + pieces)
    both = [Deployed("a", gain, 0, "a"), Deployed("b", gain + OTHERS_GAIN, 1)]
    after = [Deployed("b", OTHERS_GAIN, 0), Deployed("a", gain + OTHERS_GAIN, 1, "a")]
    first = _pay(both, spread, runs, seed + 10)
    yield _row(f"held back until after another's gain: {noise}", after, first, spread, runs, seed + 11)
    mended = [Deployed("a", gain, 0, "a"), Deployed("slow", gain / 2, 1), Deployed("mended", gain, 2)]
    yield _row(f"a loss put in and mended: {noise}", mended, honest, spread, runs, seed + 20)
    last = REDRAWS - 1
    again = [
        Deployed(f"a{each}", gain, each, "a", None if each == last else each + 1) for each in range(REDRAWS)
    ]
    name = f"rolled back and deployed again, {REDRAWS} times: {noise}"
    yield _row(name, again, honest, spread, runs, seed + 30)


def _row(name: str, play: Sequence[Deployed], honest: Pay, spread: float, runs: int, seed: int) -> Row:
    return trick_row(f"royalties, {name}", _pay(play, spread, runs, seed).over(honest), runs)


def _pay(play: Sequence[Deployed], spread: float, runs: int, seed: int) -> Pay:
    """Pay of a play over many draws of its canaries."""
    draws = np.random.default_rng(seed).normal(0.0, spread, (runs, len(play)))
    return Pay.of(np.array([paid(play, spread, row) for row in draws.tolist()], dtype=float))


def paid(play: Sequence[Deployed], spread: float, draws: Sequence[float]) -> float:
    """Micro-credits that the player is paid for this play with these draws of noise, for all days."""
    truth = {"": 0.0, **{step.tree: step.true_log for step in play}}
    history: list[Served] = []
    best = ""
    for step, draw in zip(play, draws, strict=True):
        bound = truth[step.tree] - truth[best] + draw - QUANTILE * spread
        at = START + timedelta(days=step.day)
        served = Served(str(len(history)), step.tree, at, {DECODE: int(bound * MILLION)}, best)
        history.append(served)
        if placed(history)[-1].savings and step.lost_day is None:
            best = step.tree
        if step.lost_day is not None:
            history[-1] = replace(served, lost_at=START + timedelta(days=step.lost_day))
    return _earned(play, history)


def _earned(play: Sequence[Deployed], history: Sequence[Served]) -> float:
    """All days' pay of the player's gains. A gain that comes again keeps its first day, and its lowest credit at most."""
    total = 0
    begun: dict[str, int] = {}
    least: dict[str, int] = {}
    of_tree = {step.tree: frozenset({step.gain} - {""}) for step in play}
    found = placed(history)
    for step, each in zip(play, found, strict=True):
        if not step.gain or DECODE not in each.savings:
            continue
        useless = without_effect(DECODE, each, found, lambda tree: of_tree[tree])
        gain = Gain(step.gain, CONFIRMED_PPM, measures("decode"))
        credit = line_credits(each.savings[DECODE], [gain], least | dict.fromkeys(useless, 0))[step.gain]
        least[step.gain] = credit
        ends = begun.setdefault(step.gain, step.day) + LAW.days
        if step.lost_day is not None:
            ends = min(ends, step.lost_day)
        total += _day(credit) * max(0, ends - step.day)
    return float(total)


def _day(credit: int) -> int:
    """One day's pay of one term, from one payer's spending."""
    claim = Claim("gain", PLAYER, OTHER, credit, LAW.share_ppm, DAY_SPENDING)
    price = DAY_SPENDING * (MILLION - credit) // MILLION
    return day_pay([claim], {OTHER: price}).get("gain", 0)


def _without_effect(spread: float, runs: int, seed: int) -> Row:
    """A gain in its suite that saves nothing in service: rolled back until a canary errs, against deployed once."""
    draws = np.random.default_rng(seed).normal(0.0, spread, (runs, REDRAWS)).tolist()
    once = Pay.of(np.array([paid(_redrawn(1), spread, row[:1]) for row in draws], dtype=float))
    again = Pay.of(np.array([until_seen(spread, row) for row in draws], dtype=float))
    name = f"royalties, a true gain of 0 drawn again, up to {REDRAWS} times: canary's sd {spread:.1%}"
    return trick_row(name, again.over(once), runs)


def until_seen(spread: float, draws: Sequence[float]) -> float:
    """Pay where the tree is rolled back, and deployed again with a change around it, until its canary sees a saving."""
    seen = next((place for place, draw in enumerate(draws) if draw > QUANTILE * spread), len(draws) - 1)
    return paid(_redrawn(seen + 1), spread, draws[: seen + 1])


def _redrawn(times: int) -> list[Deployed]:
    """A gain without effect in so many trees, all but the last of which are rolled back."""
    lost = [Deployed(f"a{each}", 0.0, each, "a", each + 1) for each in range(times - 1)]
    return [*lost, Deployed(f"a{times - 1}", 0.0, times - 1, "a")]


def _in_company() -> Iterator[Row]:
    """Gains that come with others in one deployment, and a saving that comes with a small gain."""
    for gain in GAINS:
        real = Gain("real", int(gain * MILLION), measures("decode"))
        saving = placed([_clocked(2 * gain)])[0].savings[DECODE]
        others = replace(real, id="other")
        honest = _credit(saving, [real, others], "real")
        for suite in UNRELATED:
            unrelated = Gain("unrelated", int(UNRELATED_GAIN * MILLION), measures(suite))
            own = _credit(saving, [real, others, unrelated], "real", "unrelated")
            name = f"an unrelated gain in the same deployment: {UNRELATED_GAIN:g} nats of {suite} with {gain:.0%} of decode"
            yield trick_row(f"royalties, {name}", Pay(own / honest, 0.0), 1)
    small = Gain("small", int(SMALL_GAIN * MILLION), measures("decode"))
    honest = _credit(placed([_clocked(SMALL_GAIN)])[0].savings[DECODE], [small], "small")
    pushed = _credit(placed([_clocked(SMALL_GAIN + PUSHED)])[0].savings[DECODE], [small], "small")
    name = f"a gain of {SMALL_GAIN:.0%} with a push of {PUSHED:.0%} that no one measured"
    yield trick_row(f"royalties, {name}", Pay(pushed / honest, 0.0), 1)


def _credit(saving: Saving, gains: Sequence[Gain], *own: str) -> float:
    """A day's pay of the player's gains among these."""
    credited = line_credits(saving, gains, {})
    return float(sum(_day(credited.get(name, 0)) for name in own))


def _traffic() -> Iterator[Row]:
    """What comes back of credits that are spent to draw royalties, over what was spent, one row for each kind."""
    own = _back("award", payer=PLAYER) / DAY_SPENDING
    yield trick_row("royalties, own traffic: what comes back", Pay(own, 0.0), 1)
    for source, kind in (("starter", "starter"), ("grant", "granted"), ("award", "earned")):
        back = _back(source) / DAY_SPENDING
        yield trick_row(f"royalties, wash traffic from {kind} credits: what comes back", Pay(back, 0.0), 1)
    names = Pay(_back("award", names=NAMES) / _back("award"), 0.0)
    yield trick_row(f"royalties, a gain in {NAMES} names, against the cap of a payer", names, 1)


def _back(source: str, *, payer: int = OTHER, names: int = 1) -> int:
    """Micro-credits that a day's spending from lots of this source returns, where a gain saves 99 % and shares all."""
    paid = counted({source: DAY_SPENDING})
    saving = LARGEST_PPM // names
    claims = [Claim(str(name), PLAYER, payer, saving, MILLION, paid * 100) for name in range(names)]
    return sum(day_pay(claims, {payer: paid}).values())


def _canary_only() -> Iterator[Row]:
    """A path that is fast in canaries alone, over a true gain of the same bound."""
    gain = 1.5 * CLOCK_SHARE
    honest = _day(placed([_clocked(gain)])[0].savings[DECODE].ppm) * LAW.days
    caught = _day(placed([_clocked(gain)])[0].savings[DECODE].ppm) * CLOCK_MINUTES / MINUTES
    yield trick_row("royalties, a canary-only fast path, seen by the clock", Pay(caught / honest, 0.0), 1)
    unseen = max(0, FOUND_AFTER_DAYS - WINDOW_DAYS) / LAW.days
    name = f"royalties, one below the clock's margin, found and reversed after {FOUND_AFTER_DAYS} days"
    yield trick_row(name, Pay(unseen, 0.0), 1)


def _clocked(gain: float) -> Served:
    return Served("1", "a", START, {DECODE: int(gain * MILLION)})
