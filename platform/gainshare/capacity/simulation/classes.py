"""Classes of devices as options name them: ``spot,price=0.4,speed=1,cold=120,lifetime=24,max=64``."""

from __future__ import annotations

import math
from dataclasses import dataclass

MICRO = 1_000_000
DEFAULT_MAX = 64
HOUR_S = 3600.0


class OptionsError(Exception):
    """An option makes no sense. The message says which and what to give."""


@dataclass(frozen=True, slots=True)
class ClassOption:
    """A class: micro-credits per device-hour, speed against the calibration, seconds of a cold start (None: the run's own)."""

    name: str
    price: int = MICRO
    speed: float = 1.0
    cold_start_s: float | None = None
    lifetime_s: float = math.inf
    max_nodes: int = DEFAULT_MAX


def parse_class(text: str) -> ClassOption:
    """Raises OptionsError."""
    name, *parts = text.split(",")
    values = dict(part.partition("=")[::2] for part in parts)
    known = {"price", "speed", "cold", "lifetime", "max"}
    if not name or "=" in name or len(values) != len(parts) or set(values) - known:
        raise OptionsError(
            f"--class {text!r} cannot be read: give a name, then any of {', '.join(sorted(known))} once, as in "
            "spot,price=0.4,lifetime=24"
        )
    try:
        numbers = {key: float(value) for key, value in values.items()}
    except ValueError:
        raise OptionsError(f"--class {text!r} has a value that is not a number") from None
    if any(not math.isfinite(value) for value in numbers.values()):
        raise OptionsError(f"--class {text!r} has a value that is not finite")
    if min(numbers.get(key, 1.0) for key in ("price", "speed", "lifetime")) <= 0:
        raise OptionsError(f"--class {text!r}: price, speed and lifetime must be above zero")
    if numbers.get("cold", 0.0) < 0 or not 1 <= numbers.get("max", 1.0) <= 4096:
        raise OptionsError(f"--class {text!r}: cold must not be negative, and max must be 1 to 4096")
    return ClassOption(
        name,
        round(numbers.get("price", 1.0) * MICRO),
        numbers.get("speed", 1.0),
        numbers.get("cold"),
        numbers["lifetime"] * HOUR_S if "lifetime" in numbers else math.inf,
        int(numbers.get("max", DEFAULT_MAX)),
    )
