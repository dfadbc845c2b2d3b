"""What a device does in what time: the times of an engine's steps, as measured on a real one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

SHIPPED = "calibration.json"


class CalibrationError(Exception):
    """A calibration cannot be read. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Times of one device: a step of the engine takes ``step_s`` and ``sequence_s`` for each answer in it.

    A prompt is read in steps of ``step_tokens`` tokens; each of its tokens takes ``prompt_token_s``, and each pair of a
    token and one before it ``prompt_pair_s``. Answers in progress get one token for each step, also while a prompt is read:
    so the rate of one answer falls with the number of them, and stops almost while a long prompt is read.
    """

    step_s: float
    sequence_s: float
    prompt_token_s: float
    prompt_pair_s: float
    step_tokens: int

    def prompt_s(self, tokens: int, cached: int = 0) -> float:
        """Seconds of computing for a prompt of ``tokens``, of which the first ``cached`` are not computed again."""
        new = tokens - cached
        return new * self.prompt_token_s + 0.5 * (tokens + cached) * new * self.prompt_pair_s

    def token_s(self, running: int) -> float:
        """Seconds for each token of an answer while ``running`` answers are in progress and no prompt is read."""
        return self.step_s + running * self.sequence_s

    def faster(self, factor: float) -> Rates:
        """Rates of a device that takes 1/factor of each time."""
        return Rates(
            self.step_s / factor,
            self.sequence_s / factor,
            self.prompt_token_s / factor,
            self.prompt_pair_s / factor,
            self.step_tokens,
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates with where they come from: engine, machine, date (UTC), commit, and the command that measured them.

    ``error`` compares a short real run with the simulation of the same requests: what was compared, and by how many per
    cent the simulation is above the real run.
    """

    rates: Rates
    engine: str
    machine: str
    date: str
    commit: str | None
    command: str
    error: Mapping[str, float]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def says(self) -> str:
        """One line for people."""
        errors = ", ".join(f"{name} {value:+.0f} %" for name, value in self.error.items()) or "not compared"
        return f"{self.engine} on {self.machine}, {self.date[:10]}; simulated against real: {errors}"

    def faster(self, factor: float) -> Calibration:
        if factor == 1:
            return self
        return replace(self, rates=self.rates.faster(factor), engine=f"{self.engine}, times / {factor:g}")


def shipped() -> Calibration:
    """The calibration that comes with the package."""
    text = resources.files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse(text, SHIPPED)


def read(path: Path) -> Calibration:
    """Raises CalibrationError for what is no calibration, and OSError."""
    return parse(path.read_text(encoding="utf-8"), str(path))


def parse(text: str, name: str) -> Calibration:
    """Raises CalibrationError."""
    try:
        values = json.loads(text)
        rates = Rates(**values.pop("rates"))
        found = Calibration(rates=rates, **values)
        numbers = (rates.step_s, rates.sequence_s, rates.prompt_token_s, rates.prompt_pair_s)
        if min(numbers) < 0 or rates.prompt_token_s + rates.step_s <= 0 or rates.step_tokens < 1:
            raise ValueError("a time is negative, or all are zero")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"{name} is no calibration ({error}): write one with `python -m benchmarks.capacity.calibrate --output {name}`"
        ) from error
    return found
