"""Events of a training run, as plain values for observers. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Started:
    """A run starts or resumes."""

    step: int  # steps done so far
    machine: dict[str, Any]  # the machine that the measured figures are for
    config: dict[str, Any]
    parameters: int
    active_parameters: int
    peak_flops: float  # of matrix products in the run's precision, per second; measured now
    precision_reason: str | None = None  # of a precision that the run's file leaves open


@dataclass(frozen=True)
class Stepped:
    """One update was made. Losses are means in nats per target, from before the update."""

    step: int  # the number of updates done, this one included
    tokens: int  # of all steps so far, without padding
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_s: float  # of this step, data included
    mfu: float  # model FLOP/s over `peak_flops`
    seconds: float  # spent in training so far
    progress: float  # share of the budget that is done
    eta_s: float | None
    memory_bytes: int | None
    padding_share: float  # of this step's positions
    stage: str | None = None  # of the curriculum
    is_skipped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)  # of the model's parts, by name


@dataclass(frozen=True)
class Evaluated:
    """The model, or the moving average of its weights, on held-out data."""

    step: int
    tokens: int
    loss: float  # nats per target, over all kinds of documents
    losses: dict[str, float]  # of each kind
    targets: int
    seconds: float  # that it took
    is_average: bool  # of the averaged weights


@dataclass(frozen=True)
class Saved:
    step: int
    folder: Path
    seconds: float  # that it took


@dataclass(frozen=True)
class Noticed:
    """A note for the user that does not end the run."""

    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """The run ends, for the reason that it gives: its budget is spent, or it was asked to stop."""

    step: int
    tokens: int
    reason: str


Event = Started | Stepped | Evaluated | Saved | Noticed | Finished


class Observer(Protocol):
    """Interface of an observer, which gets every event in order. An error that it raises ends the run."""

    def on(self, event: Event) -> None: ...

    def close(self) -> None:
        """Called once at the end, whatever the end is."""
