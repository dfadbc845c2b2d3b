"""Three-stage curriculum against one mixed stage: tokens to the same held-out loss.

The baseline sees as many tokens of every source, all mixed from the start, at the same learning rates; only the order
differs. A curriculum's loss in the middle of a run means nothing, because its last stage has not come: so whole runs of
smaller budgets are trained, and the budget whose loss equals the baseline's is read off between them (on logarithmic
tokens). Compute is proportional to tokens: both sides have one model and one sequence length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.claims.arms import tune
from benchmarks.claims.bench import Bench, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.corpus import corpora
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import SIZES, TrainingRun, loss_of
from benchmarks.claims.tuning import Tuned, grid_text
from benchmarks.report import Row
from model.data.batches.curriculum import one_mixture, three_stages

LEAST_SAVED = 0.40
KINDS = ("general", "domain", "instruction")
TARGETS = {"instructions, what the training is for": ("instruction",), "mean of all three kinds": KINDS}
STAGED, MIXED = "three stages", "one mixture"


@dataclass(frozen=True)
class Settings:
    model: dict[str, Any]
    n_tokens: int
    sequence_length: int  # long enough for the answers of most instructions
    budgets: tuple[
        float, ...
    ]  # of the curriculum, as shares of the baseline's tokens, ascending; the last is 1
    rates: tuple[float, ...]
    seeds: tuple[int, ...]


SETTINGS: dict[Scale, Settings] = {
    "quick": Settings(
        {"d_model": 48, "n_layers": 3, "d_ff": 128}, 100_000, 256, (0.4, 0.6, 1.0), (4e-3, 1e-2), (1, 2)
    ),
    "full": Settings(
        {"d_model": 96, "n_layers": 4, "d_ff": 256},
        600_000,
        512,
        (0.3, 0.45, 0.6, 0.8, 1.0),
        (4e-3, 8e-3),
        (1, 2, 3),
    ),
}


def measure(bench: Bench, scale: Scale) -> Measured:
    settings, data = SETTINGS[scale], corpora(bench, scale)
    model = decoder("curriculum", data.vocab_size, **settings.model).to_dict()
    staged = three_stages(settings.n_tokens, settings.sequence_length)
    arms = {
        name: TrainingRun(
            model,
            data.key,
            settings.n_tokens,
            0.0,
            0,
            curriculum=curriculum.to_dict(),
            recipe={},
            scored_kinds=KINDS,
            **{**SIZES[scale], "sequence_length": settings.sequence_length},
        )
        for name, curriculum in ((STAGED, staged), (MIXED, one_mixture(staged)))
    }
    rates = tune(
        bench,
        arms,
        rates=settings.rates,
        what="curriculum",
        score=lambda result: loss_of(result, ("instruction",)),
    )
    plan = [(MIXED, 1.0, seed) for seed in settings.seeds]
    plan += [(STAGED, budget, seed) for budget in settings.budgets for seed in settings.seeds]
    runs = [
        replace(
            arms[name],
            learning_rate=rates[name].rate,
            seed=seed,
            n_tokens=round(settings.n_tokens * budget),
        ).job()
        for name, budget, seed in plan
    ]
    found = dict(zip(plan, bench.run(runs, "curriculum: budgets and seeds"), strict=True))
    mixed = [found[MIXED, 1.0, seed] for seed in settings.seeds]
    by_budget = {
        budget: [found[STAGED, budget, seed] for seed in settings.seeds] for budget in settings.budgets
    }
    return Measured(decide(mixed, by_budget, rates, settings, scale), [_figure(mixed, by_budget, settings)])


def _figure(mixed: Sequence[Result], staged: Mapping[float, Sequence[Result]], settings: Settings) -> Figure:
    """Mean losses on instructions over the seeds; the baseline's is a level."""

    def mean_loss(results: Sequence[Result]) -> float:
        return Spread.of([loss_of(result, ("instruction",)) for result in results]).mean

    tokens = [settings.n_tokens * budget for budget in staged]
    curves = [
        Curve(STAGED, tokens, [mean_loss(results) for results in staged.values()]),
        Curve(f"{MIXED}, whole budget", tokens, [mean_loss(mixed)] * len(tokens)),
    ]
    return Figure("Held-out loss on instructions by budget", "tokens", "nats", curves)


def decide(
    mixed: Sequence[Result],
    staged: Mapping[float, Sequence[Result]],
    rates: Mapping[str, Tuned],
    settings: Settings,
    scale: Scale,
) -> list[Row]:
    """One row a target: the budget that reaches the baseline's loss, seed by seed."""
    rows = []
    for target, kinds in TARGETS.items():
        budgets = [
            budget_reaching(
                loss_of(baseline, kinds), {b: loss_of(results[i], kinds) for b, results in staged.items()}
            )
            for i, baseline in enumerate(mixed)
        ]
        full = Spread.of([loss_of(result, kinds) for result in staged[max(staged)]])
        base = Spread.of([loss_of(result, kinds) for result in mixed])
        how = (
            f"baseline {base.text(3)} nats after {settings.n_tokens:,} tokens, three stages {full.text(3)} after as many; "
            f"budgets tried {', '.join(f'{budget:.0%}' for budget in staged)}; "
            f"{grid_text(rates)}; {SAYS[scale]}"
        )
        means = {b: Spread.of([loss_of(result, kinds) for result in of]).mean for b, of in staged.items()}
        reached = [budget for budget in budgets if budget is not None]
        if len(reached) < len(budgets):
            n_missed = len(budgets) - len(reached)
            missed = f"not reached with {n_missed} of {len(budgets)} seeds within the baseline's own budget"
            rows.append(_row(target, None, f"{missed}; {_why_missed(base.mean, means)}; {how}"))
            continue
        change = Spread.of([100 * (budget - 1) for budget in reached])
        if not _holds(change):
            how = f"{_why_missed(base.mean, means)}; {how}"
        is_bound = any(budget == min(staged) for budget in reached)
        bound = "at least that much: the smallest budget tried already reaches it; " if is_bound else ""
        rows.append(_row(target, change, f"{bound}change {change.text(1, '%')}; {how}"))
    return rows


def _row(target: str, change: Spread | None, how: str) -> Row:
    return Row(
        f"curriculum: compute to the mixed stage's loss ({target})",
        "not reached" if change is None else round(change.mean, 1),
        "" if change is None else "%",
        f"-{LEAST_SAVED:.0%}",
        change is not None and _holds(change),
        how,
    )


def _holds(change: Spread) -> bool:
    return change.mean <= -100 * LEAST_SAVED


def _why_missed(baseline: float, staged: Mapping[float, float]) -> str:
    """Compare the order's worth at equal tokens with the cost of the promised saving, at the slope of the last budgets."""
    before, last = sorted(staged)[-2:]
    per_doubling = (staged[before] - staged[last]) / math.log2(last / before)
    cost = per_doubling * -math.log2(1 - LEAST_SAVED)
    return (
        f"at equal tokens the order changes the loss by {staged[last] - baseline:+.3f} nats, where {LEAST_SAVED:.0%} fewer "
        f"tokens cost {cost:.3f}"
    )


def budget_reaching(loss: float, by_budget: Mapping[float, float]) -> float | None:
    """The least share of the budget at which the loss is reached, interpolated on logarithmic budgets; None: never.

    Where the smallest budget reaches it already, that budget: nothing is read off beyond what was tried.
    """
    budgets = sorted(by_budget)
    for index, budget in enumerate(budgets):
        if by_budget[budget] > loss:
            continue
        if index == 0:
            return budget
        before = budgets[index - 1]
        share = (by_budget[before] - loss) / (by_budget[before] - by_budget[budget])
        return math.exp(math.log(before) + share * math.log(budget / before))
    return None


CLAIM = Claim(
    "curriculum",
    "Three stages of general, domain and instruction text reach the loss of one mixed stage with 40 % less compute",
    measure,
)
