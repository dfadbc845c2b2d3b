"""Progressive growth: a dense parent becomes an MoE child, against the child trained from scratch with equal compute.

Compute is operations: 6 x active parameters x tokens, the parent's and the child's together. The child starts from the
parent's weights (one shared half, copies of the other half as experts) with a new optimiser. Both sides have one grid of
learning rates; the grown side's rate holds for parent and child. The parent's rate stays constant, because its training
continues; the child's and the baseline's fall as a cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.claims.bench import Bench, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.corpus import Corpora, corpora
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import SIZES, TrainingRun, loss_of
from benchmarks.claims.tuning import TUNING_SEED, Tuned, best_rate, grid_text, next_rate
from benchmarks.report import Row
from model.growth import upcycle_halves
from model.training.report.flops import training_cost

MOST_JUMP = 1e-3  # of the loss, relative: rounding is a thousandth of that
GROWN, SCRATCH = "grown", "from scratch"
N_EXPERTS, TOP_K = 7, 2
ROUTING = {"switch_loss": 0.01}
CHILD_SEEDS = 1000  # added to the parent's: a child sees other batches


@dataclass(frozen=True)
class Settings:
    model: dict[str, Any]
    parent_tokens: int
    child_tokens: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Trained:
    """One seed of both sides."""

    parent: Result
    child: Result
    scratch: Result


SETTINGS: dict[Scale, Settings] = {
    "quick": Settings({"d_model": 64, "n_layers": 3, "d_ff": 192}, 60_000, 40_000, (4e-3, 1e-2), (1, 2)),
    "full": Settings({"d_model": 96, "n_layers": 4, "d_ff": 256}, 400_000, 250_000, (4e-3, 8e-3), (1, 2, 3)),
}


def runs_of(settings: Settings, data: Corpora, scale: Scale) -> dict[str, TrainingRun]:
    """Parent, child (whose `start` is to be set) and the baseline of equal compute."""
    config = decoder("parent", data.vocab_size, **settings.model)
    child = upcycle_halves(
        config, n_experts=N_EXPERTS, top_k=TOP_K, switch_loss=ROUTING["switch_loss"]
    ).config
    parent_cost, child_cost = training_cost(config).per_token, training_cost(child).per_token
    equal_tokens = settings.child_tokens + round(settings.parent_tokens * parent_cost / child_cost)
    parent = TrainingRun(
        config.to_dict(),
        data.key,
        settings.parent_tokens,
        0.0,
        0,
        recipe={},
        keeps_weights=True,
        n_scores=2,
        **SIZES[scale],
    )
    grown = TrainingRun(
        config.to_dict(),
        data.key,
        settings.child_tokens,
        0.0,
        0,
        scores_start=True,
        n_scores=2,
        grow={"n_experts": N_EXPERTS, "top_k": TOP_K, **ROUTING},
        **SIZES[scale],
    )
    scratch = TrainingRun(child.to_dict(), data.key, equal_tokens, 0.0, 0, n_scores=4, **SIZES[scale])
    return {"parent": parent, "child": grown, "scratch": scratch}


def measure(bench: Bench, scale: Scale) -> Measured:
    settings, data = SETTINGS[scale], corpora(bench, scale)
    runs = runs_of(settings, data, scale)
    rates = _tune(bench, runs, settings.rates)
    grown, scratch = _train(
        bench,
        runs,
        grown=[(rates[GROWN].rate, seed) for seed in settings.seeds],
        scratch=[(rates[SCRATCH].rate, seed) for seed in settings.seeds],
        what="growth: seeds",
    )
    trained = [Trained(*pair, alone) for pair, alone in zip(grown, scratch, strict=True)]
    return Measured(decide(trained, rates, settings, scale), [_figure(trained[0])])


def _tune(bench: Bench, runs: Mapping[str, TrainingRun], rates: Sequence[float]) -> dict[str, Tuned]:
    losses: dict[str, dict[float, float]] = {GROWN: {}, SCRATCH: {}}
    wanted: dict[str, list[float]] = {side: list(rates) for side in losses}
    while any(wanted.values()):
        grid = {side: [(rate, TUNING_SEED) for rate in of_side] for side, of_side in wanted.items()}
        grown, scratch = _train(
            bench, runs, grown=grid[GROWN], scratch=grid[SCRATCH], what="growth: learning rates"
        )
        for side, found in ((GROWN, [child for _, child in grown]), (SCRATCH, scratch)):
            losses[side] |= {rate: loss_of(result) for rate, result in zip(wanted[side], found, strict=True)}
        beyond = {side: next_rate(of_side, len(rates)) for side, of_side in losses.items()}
        wanted = {side: [] if rate is None else [rate] for side, rate in beyond.items()}
    return {side: best_rate(of_side) for side, of_side in losses.items()}


def _train(
    bench: Bench,
    runs: Mapping[str, TrainingRun],
    *,
    grown: Sequence[tuple[float, int]],
    scratch: Sequence[tuple[float, int]],
    what: str,
) -> tuple[list[tuple[Result, Result]], list[Result]]:
    """Train parents with their children, and baselines, for each (rate, seed)."""
    first = [
        replace(runs[name], learning_rate=rate, seed=seed).job()
        for name, of_side in (("parent", grown), ("scratch", scratch))
        for rate, seed in of_side
    ]
    found = bench.run(first, f"{what}: parents and baselines")
    parents, scratches = found[: len(grown)], found[len(grown) :]
    growing = [
        replace(runs["child"], learning_rate=rate, seed=seed + CHILD_SEEDS, start=parent["key"]).job()
        for (rate, seed), parent in zip(grown, parents, strict=True)
        if not parent["has_diverged"]
    ]
    children_of = iter(bench.run(growing, f"{what}: children"))
    # a parent that diverged has no child: its loss, which is infinite, is used for both
    children = [parent if parent["has_diverged"] else next(children_of) for parent in parents]
    return list(zip(parents, children, strict=True)), scratches


def decide(
    trained: Sequence[Trained], rates: Mapping[str, Tuned], settings: Settings, scale: Scale
) -> list[Row]:
    jump = Spread.of([100 * (loss_of(t.child, at=0) / loss_of(t.parent) - 1) for t in trained])
    change = Spread.of([100 * (loss_of(t.child) / loss_of(t.scratch) - 1) for t in trained])
    first = trained[0]
    compute = (first.parent["flops"] + first.child["flops"]) / first.scratch["flops"]
    sizes = f"parent {first.parent['parameters'] / 1e6:.2f}M, child {first.child['parameters'] / 1e6:.2f}M parameters"
    grown, scratch = (
        Spread.of([loss_of(result) for result in results])
        for results in ([t.child for t in trained], [t.scratch for t in trained])
    )
    worst = max(abs(jump.low), abs(jump.high))
    return [
        Row(
            "growth: loss jump when a dense parent becomes an MoE child",
            round(jump.mean, 5),
            "%",
            f"none: below {MOST_JUMP:.1%}",
            worst < 100 * MOST_JUMP,
            f"held-out loss of the child before its first step against its parent's, {jump.text(5, '%')}; {sizes}; "
            f"{SAYS[scale]}",
        ),
        Row(
            "growth: held-out loss of the grown child against from scratch at equal compute",
            round(change.mean, 2),
            "%",
            "lower, with every seed",
            change.high < 0,
            f"grown {grown.text(3)}, from scratch {scratch.text(3)} nats; change {change.text(2, '%')}; compute of the "
            f"grown side {100 * compute:.1f} % of the other's; {sizes}; parent {settings.parent_tokens:,} tokens, child "
            f"{settings.child_tokens:,}, from scratch {first.scratch['tokens']:,}; "
            f"{grid_text(rates)}; {SAYS[scale]}",
        ),
    ]


def _figure(trained: Trained) -> Figure:
    """Loss by compute, first seed; the child's compute begins where its parent's ends."""

    def curve(name: str, result: Result, before: float) -> Curve:
        per_token = result["flops"] / result["tokens"]
        return Curve(
            name,
            [before + point["tokens"] * per_token for point in result["points"]],
            [loss_of(result, at=at) for at in range(len(result["points"]))],
        )

    curves = [
        curve("parent", trained.parent, 0.0),
        curve("child", trained.child, trained.parent["flops"]),
        curve("child's shape from scratch", trained.scratch, 0.0),
    ]
    return Figure("Growth against training from scratch, first seed", "FLOPs", "held-out nats", curves)


CLAIM = Claim(
    "growth",
    "A dense parent grows into an MoE child without a jump of its loss, and beats training from scratch at equal compute",
    measure,
)
