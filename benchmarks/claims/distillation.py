"""Distillation: a student of a tenth of its teacher's parameters, with the teacher and without, at equal steps.

Both students see the same batches of the same seed, and both are tuned on the same grid of learning rates. Temperature
and weight are the package's defaults, not tuned: the student without a teacher has nothing to set them against. Nor is the
teacher's own rate: a better teacher would only favour the claim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.claims.arms import Compared, compare
from benchmarks.claims.bench import Bench, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.corpus import corpora
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import SIZES, TrainingRun, loss_of
from benchmarks.claims.tuning import TUNING_SEED, grid_text
from benchmarks.report import Row

TAUGHT, ALONE = "with its teacher", "without"


@dataclass(frozen=True)
class Settings:
    student: dict[str, Any]
    teacher: dict[str, Any]
    student_tokens: int
    teacher_tokens: int
    teacher_rate: float
    rates: tuple[float, ...]
    seeds: tuple[int, ...]


SETTINGS: dict[Scale, Settings] = {
    "quick": Settings(
        {"d_model": 32, "n_layers": 2, "d_ff": 96},
        {"d_model": 96, "n_layers": 5, "d_ff": 224},
        60_000,
        150_000,
        5e-3,
        (5e-3, 1.25e-2),
        (1, 2),
    ),
    "full": Settings(
        {"d_model": 48, "n_layers": 3, "d_ff": 128},
        {"d_model": 160, "n_layers": 5, "d_ff": 432},
        500_000,
        1_000_000,
        4e-3,
        (5e-3, 1e-2),
        (1, 2, 3),
    ),
}


def measure(bench: Bench, scale: Scale) -> Measured:
    settings, data = SETTINGS[scale], corpora(bench, scale)
    teacher_model = decoder("teacher", data.vocab_size, **settings.teacher)
    student_model = decoder("student", data.vocab_size, **settings.student)
    teacher = TrainingRun(
        teacher_model.to_dict(),
        data.key,
        settings.teacher_tokens,
        settings.teacher_rate,
        TUNING_SEED,
        keeps_weights=True,
        **SIZES[scale],
    )
    taught_by = bench.one(teacher.job(), "distillation: teacher")
    alone = TrainingRun(
        student_model.to_dict(), data.key, settings.student_tokens, 0.0, 0, n_scores=4, **SIZES[scale]
    )
    taught = replace(alone, teacher=taught_by["key"], teacher_model=teacher_model.to_dict())
    compared = compare(
        bench, {TAUGHT: taught, ALONE: alone}, rates=settings.rates, seeds=settings.seeds, what="distillation"
    )
    curves = [
        Curve(
            name,
            [float(point["tokens"]) for point in results[0]["points"]],
            [loss_of(results[0], at=at) for at in range(len(results[0]["points"]))],
        )
        for name, results in compared.results.items()
    ]
    figure = Figure("A student with and without its teacher, first seed", "tokens", "held-out nats", curves)
    return Measured(decide(compared, taught_by, settings, scale), [figure])


def decide(compared: Compared, teacher: Result, settings: Settings, scale: Scale) -> list[Row]:
    pairs = zip(compared.results[TAUGHT], compared.results[ALONE], strict=True)
    change = Spread.of([100 * (loss_of(taught) / loss_of(alone) - 1) for taught, alone in pairs])
    student = compared.results[ALONE][0]
    losses = ", ".join(
        f"{name} {Spread.of([loss_of(result) for result in results]).text(3)}"
        for name, results in compared.results.items()
    )
    how = (
        f"held-out nats a token: {losses}; teacher {loss_of(teacher):.3f}; student {student['parameters'] / 1e3:.0f}k, "
        f"teacher {teacher['parameters'] / 1e3:.0f}k parameters ({teacher['parameters'] / student['parameters']:.1f}x); "
        f"{student['steps']} steps either side, temperature 2, weight 0.5; change {change.text(2, '%')}; "
        f"{grid_text(compared.rates)}; {SAYS[scale]}"
    )
    return [
        Row(
            "distillation: held-out loss of a student of 1/10 against the same without a teacher",
            round(change.mean, 2),
            "%",
            "lower at equal steps, with every seed",
            change.high < 0,
            how,
        )
    ]


CLAIM = Claim(
    "distillation",
    "A student of a tenth of the parameters reaches a lower held-out loss with its teacher, at equal steps",
    measure,
)
