"""Sides of a comparison: each gets the same learning-rate grid, then runs with every seed at its best rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from benchmarks.claims.bench import Bench, Result
from benchmarks.claims.training import TrainingRun, loss_of
from benchmarks.claims.tuning import TUNING_SEED, Tuned, best_rate, next_rate


@dataclass(frozen=True)
class Compared:
    """Results by side, in the order of seeds, the rate that each side was run at, and its first run that decided that."""

    results: Mapping[str, Sequence[Result]]
    rates: Mapping[str, Tuned]
    tuning: Mapping[str, Result]


def compare(
    bench: Bench,
    arms: Mapping[str, TrainingRun],
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    what: str,
    score: Callable[[Result], float] = loss_of,
    tuning_seeds: Sequence[int] = (TUNING_SEED,),
) -> Compared:
    """Runs of all sides. `score`, averaged over the tuning seeds, is what rates are chosen by: less is better."""
    tried = try_rates(bench, arms, rates=rates, what=what, score=score, seeds=tuning_seeds)
    tuned = chosen_rates(tried, score)
    grid = [(name, seed) for name in arms for seed in seeds]
    runs = [replace(arms[name], learning_rate=tuned[name].rate, seed=seed).job() for name, seed in grid]
    found = bench.run(runs, f"{what}: {len(seeds)} seeds")
    results: dict[str, list[Result]] = {name: [] for name in arms}
    for (name, _), result in zip(grid, found, strict=True):
        results[name].append(result)
    return Compared(results, tuned, {name: tried[name][tuned[name].rate][0] for name in arms})


def tune(
    bench: Bench,
    arms: Mapping[str, TrainingRun],
    *,
    rates: Sequence[float],
    what: str,
    score: Callable[[Result], float] = loss_of,
) -> dict[str, Tuned]:
    """The best rate of each side on the tuning seed."""
    return chosen_rates(try_rates(bench, arms, rates=rates, what=what, score=score), score)


def try_rates(
    bench: Bench,
    arms: Mapping[str, TrainingRun],
    *,
    rates: Sequence[float],
    what: str,
    score: Callable[[Result], float] = loss_of,
    seeds: Sequence[int] = (TUNING_SEED,),
) -> dict[str, dict[float, list[Result]]]:
    """Train every side at every rate, and at those that its grid grows by, with each of the tuning seeds."""
    tried: dict[str, dict[float, list[Result]]] = {name: {} for name in arms}
    wanted = [(name, rate) for name in arms for rate in rates]
    while wanted:
        grid = [(name, rate, seed) for name, rate in wanted for seed in seeds]
        runs = [replace(arms[name], learning_rate=rate, seed=seed).job() for name, rate, seed in grid]
        for (name, rate, _), result in zip(grid, bench.run(runs, f"{what}: learning rates"), strict=True):
            tried[name].setdefault(rate, []).append(result)
        beyond = {name: next_rate(_scored(by_rate, score), len(rates)) for name, by_rate in tried.items()}
        wanted = [(name, rate) for name, rate in beyond.items() if rate is not None]
    return tried


def chosen_rates(
    tried: Mapping[str, Mapping[float, Sequence[Result]]], score: Callable[[Result], float]
) -> dict[str, Tuned]:
    return {name: best_rate(_scored(by_rate, score)) for name, by_rate in tried.items()}


def _scored(
    by_rate: Mapping[float, Sequence[Result]], score: Callable[[Result], float]
) -> dict[float, float]:
    return {rate: fmean(score(result) for result in results) for rate, results in by_rate.items()}
