"""Results as training jobs give them, for tests of decisions."""

from __future__ import annotations

from typing import Any

from benchmarks.claims.arms import Compared
from benchmarks.claims.tuning import Tuned

RATE = Tuned(4e-3, (2e-3, 4e-3, 8e-3))


def result(
    loss: float,
    *,
    accuracy: float = 0.3,
    stored_bytes: int = 400,
    parameters: int = 100,
    kinds: tuple[str, ...] = ("general", "domain"),
    **other: Any,
) -> dict[str, Any]:
    """One run's, with the same score for each kind of text."""
    return {
        "points": [{"tokens": 64, "scores": {kind: {"loss": loss, "accuracy": accuracy} for kind in kinds}}],
        "tokens": 64,
        "steps": 4,
        "parameters": parameters,
        "stored_bytes": stored_bytes,
        "flops": 1000,
        "has_diverged": False,
        **other,
    }


def compared(
    results: dict[str, list[dict[str, Any]]], tuning: dict[str, dict[str, Any]] | None = None
) -> Compared:
    deciding = tuning or {name: of_side[0] for name, of_side in results.items()}
    return Compared(results, dict.fromkeys(results, RATE), deciding)
