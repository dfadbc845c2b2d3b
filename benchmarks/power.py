"""How often the judge is wrong: error rates and power of gate, confirmation and control check, by simulation.

`python -m benchmarks.power [--json] [--quick]`. Every cell is one kind of noise at one size, with the same decision
functions that judge real runs. Seeded: the same figures on every run. Takes about a minute, `--quick` a few seconds.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

from benchmarks.catalogue import MOE_FORWARD
from benchmarks.noise_models import MODELS, Model, Noise, gaussian, process_bias
from benchmarks.report import Report, Row
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS, confirmation_bound
from benchmarks.statistics.controls import BaseTime, control_check
from benchmarks.statistics.gate import (
    EXTENDED_LOOK,
    GateDecision,
    GateOutcome,
    GatePlan,
    boundaries,
    gate_decision,
)

SIMULATIONS, QUICK_SIMULATIONS = 100_000, 2_000
POWER_SHARE = 10  # power needs fewer simulations than errors of one in a thousand
CHUNK = 20_000
SIZES = (0.01, 0.02)
FALSE_TARGET = 0.001
BIAS = 0.005
PLAN = GatePlan(minimum_effect_log=MOE_FORWARD.minimum_effect_log_ppm / 1e6)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of noise at one size: `sd` of a pair's log ratio, `offset` in all pairs of a run alike."""

    name: str
    model: Model
    sd: float
    offset: float = 0.0
    layout: float = 0.0  # sd of each process' own bias

    def draw(self, rng: np.random.Generator, runs: int, pairs: int, effect: float = 0.0) -> Noise:
        """Log ratios [runs, pairs] in nats for a true effect of ln(1 + effect)."""
        values = self.sd * self.model(rng, runs, pairs) + math.log1p(effect) + self.offset
        return values + process_bias(rng, runs, pairs, self.layout) if self.layout else values


def null_cells() -> list[Cell]:
    """What a patch without effect may look like."""
    cells = [Cell(f"{name}, sd {sd:.0%}", model, sd) for name, model in MODELS.items() for sd in SIZES]
    for sd in SIZES:
        cells.append(Cell(f"own bias of each process {BIAS:.1%}, sd {sd:.0%}", gaussian, sd, layout=BIAS))
        cells.append(
            Cell(f"lucky build +{BIAS:.1%} in all pairs, sd {sd:.0%}", gaussian, sd, offset=BIAS * 0.99)
        )
    return cells


def decisions(cell: Cell, runs: int, seed: int, effect: float = 0.0) -> Iterator[GateDecision]:
    """Gate decisions of `runs` simulated runs."""
    rng = np.random.default_rng(seed)
    for start in range(0, runs, CHUNK):
        for row in cell.draw(rng, min(CHUNK, runs - start), EXTENDED_LOOK, effect).tolist():
            yield gate_decision(row, PLAN)


def binomial_upper(found: int, of: int, error: float = 0.05) -> float:
    """The upper end of Clopper and Pearson's one-sided interval for a rate (Biometrika 26, 1934), by bisection."""
    if found >= of:
        return 1.0
    low, high = found / of, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(found, of, middle) < error else (middle, high)
    return high


def binomial_lower(found: int, of: int, error: float = 0.05) -> float:
    """The lower end of the same."""
    return 1.0 - binomial_upper(of - found, of, error)


def _at_most(found: int, of: int, rate: float) -> float:
    """P(X <= found) for X ~ Binomial(of, rate); the nearer tail is summed."""
    if rate <= 0.0 or rate >= 1.0:
        return 1.0 if rate <= 0.0 else 0.0
    log, log_not = math.log(rate), math.log1p(-rate)

    def term(k: int) -> float:
        choose = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        return math.exp(choose + k * log + (of - k) * log_not)

    if found <= of // 2:
        return math.fsum(map(term, range(found + 1)))
    return 1.0 - math.fsum(map(term, range(found + 1, of + 1)))


def false_gain_rows(runs: int) -> Iterator[Row]:
    """False passes of the gate in every null cell, with the upper 95 % bound of their rate."""
    for seed, cell in enumerate(null_cells()):
        passes = sum(d.outcome is GateOutcome.GAIN for d in decisions(cell, runs, seed))
        upper, lower = binomial_upper(passes, runs), binomial_lower(passes, runs)
        holds = True if upper <= FALSE_TARGET else False if lower > FALSE_TARGET else None
        how = f"{passes} of {runs} runs without effect pass the gate; upper 95 % bound of the rate"
        yield Row(f"false gains: {cell.name}", round(upper, 6), "", f"<= {FALSE_TARGET}", holds, how)


def power_rows(runs: int) -> Iterator[Row]:
    """How often true gains pass the gate, and how many pairs that takes."""
    for seed, (effect, target) in enumerate(((0.02, 0.80), (0.05, 0.95), (0.20, 0.95))):
        for cell in (
            Cell(f"{name}, sd {sd:.0%}", model, sd) for name, model in MODELS.items() for sd in SIZES
        ):
            taken = list(decisions(cell, runs, 1_000 + seed, effect))
            found = sum(d.outcome is GateOutcome.GAIN for d in taken) / runs
            how = f"{runs} runs, median {median(d.look for d in taken):.0f} pairs"
            yield Row(
                f"{effect:.0%} gain found: {cell.name}", found, "", f">= {target}", found >= target, how
            )


def pairs_rows(runs: int) -> Iterator[Row]:
    """How many pairs patches without effect, or slower ones, take."""
    for name, effect, most in (("no effect", 0.0, 24), ("5 % slower", -0.05, 24), ("20 % slower", -0.20, 12)):
        for sd in SIZES:
            taken = list(decisions(Cell(name, gaussian, sd), runs, 2_000, effect))
            looks = [d.look for d in taken]
            slower = sum(d.outcome is GateOutcome.REGRESSION for d in taken) / runs
            how = f"95th percentile of {runs} runs; mean {sum(looks) / runs:.1f}; regression in {slower:.1%}"
            value = quantiles(looks, n=20)[-1]
            yield Row(f"pairs for {name}, sd {sd:.0%}", value, "pairs", f"<= {most}", value <= most, how)


def confirmation_rows(runs: int) -> Iterator[Row]:
    """Coverage of the confirmation's bound, and how much of a true gain it pays."""
    truth = 0.05
    for seed, cell in enumerate(
        Cell(f"{name}, sd {sd:.0%}", m, sd) for name, m in MODELS.items() for sd in SIZES
    ):
        rng = np.random.default_rng(3_000 + seed)
        rows = cell.draw(rng, runs, CONFIRMATION_PAIRS, truth).tolist()
        bounds = [confirmation_bound(row).bound_log_ppm for row in rows]
        true_ppm = math.log1p(truth) * 1e6
        over = sum(bound > true_ppm for bound in bounds)
        lower = binomial_lower(over, runs)
        paid = sum(max(bound, 0) for bound in bounds) / runs / true_ppm
        how = f"{runs} confirmations of {CONFIRMATION_PAIRS} pairs; on average {paid:.0%} of the true gain is paid"
        yield Row(f"bound above a true 5 %: {cell.name}", over / runs, "", "<= 0.05", lower <= 0.05, how)


def control_rows(runs: int) -> Iterator[Row]:
    """The control check: honest candidates suspected, and partners slowed down found, one control in six pairs."""
    for pairs in (6, 12, 30):
        for slowdown, target in ((0.0, "<= 0.01"), (0.5, ">= 0.95")):
            rng = np.random.default_rng(4_000 + pairs)
            suspected = 0
            for _ in range(runs):
                drifting = np.cumsum(0.01 * rng.standard_normal(pairs + pairs // 6)).tolist()
                noise = (0.03 * rng.standard_normal(pairs + pairs // 6)).tolist()
                is_control = [index % 7 == 3 for index in range(pairs + pairs // 6)]
                suspected += control_check(
                    [
                        BaseTime("case", control, drift + own + (0.0 if control else math.log1p(slowdown)))
                        for control, drift, own in zip(is_control, drifting, noise, strict=True)
                    ]
                ).is_suspicious
            share = suspected / runs
            name = f"suspicious over {pairs} pairs: " + (
                "partner slowed by 50 %" if slowdown else "honest candidate"
            )
            holds = share >= 0.95 if slowdown else share <= 0.01
            yield Row(
                name, share, "", target, holds, f"{runs} runs; base's time drifts 1 % a pair, noise 3 %"
            )


def alpha_row() -> Row:
    """What the looks from 12 on spend exactly, if every pair lies above the allowance with probability 1/2."""
    spent = exact_spend()
    how = "exact random walk; needed above the allowance: " + ", ".join(
        f"{needed} of {look}" for look, needed in boundaries(PLAN.alpha).items()
    )
    return Row("error of all looks from 12 on", round(spent, 8), "", "<= 0.0009", spent <= 0.0009, how)


def exact_spend() -> float:
    """P(any boundary is reached) for pairs that lie above with probability 1/2, by walking all counts."""
    walk, taken, spent = {0: 1}, 0, 0.0
    for look, needed in boundaries(PLAN.alpha).items():
        for _ in range(look - taken):
            after: dict[int, int] = {}
            for above, ways in walk.items():
                after[above] = after.get(above, 0) + ways
                after[above + 1] = after.get(above + 1, 0) + ways
            walk = after
        spent += sum(ways for above, ways in walk.items() if above >= needed) / 2**look
        walk, taken = {above: ways for above, ways in walk.items() if above < needed}, look
    return spent


def measure(runs: int) -> list[Row]:
    """All rows, `runs` simulations in each cell of false gains."""
    few = max(runs // POWER_SHARE, QUICK_SIMULATIONS)
    return [
        alpha_row(),
        *false_gain_rows(runs),
        *power_rows(few),
        *pairs_rows(few),
        *confirmation_rows(few),
        *control_rows(few // 2),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SIMULATIONS} simulations instead of {SIMULATIONS}"
    )
    chosen = parser.parse_args()
    command = "python -m benchmarks.power" + (" --quick" if chosen.quick else "")
    rows = measure(QUICK_SIMULATIONS if chosen.quick else SIMULATIONS)
    Report.here(command, rows).show(as_json=chosen.json)


if __name__ == "__main__":
    main()
