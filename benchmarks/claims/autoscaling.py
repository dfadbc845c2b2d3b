"""Autoscaling: what our policy costs against the smallest fixed fleet that meets the objective, and the published policies.

Simulated by `gainshare simulate` on the traces given to the command, else on the generator's, calibrated by an engine's
measured rates: no figure of a real cluster. Nothing is kept between runs, since the code that decides it is not part of
the stack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.capacity.comparisons import Comparison, Traces, comparisons, measure
from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.report import Row

POLICIES = ("kpa, tuned", "hpa, tuned", "ray, tuned", "forecast")
COLD = re.compile(r"^(?P<kind>.+): cold start (?P<cold>[\d.]+) s: (?P<policy>.+)$")


def chosen(files: Sequence[Path], scale: Scale) -> list[Comparison]:
    """Conversations, Poisson and at full scale also bursty. Raises MeasuringFailed for a file that is no known trace."""
    every = comparisons(Traces.of(files), quick=scale == "quick")
    return [one for one in every if one.label in ("conversations, Poisson", "conversations, bursty")]


def measured(bench: Bench, scale: Scale) -> Measured:
    simulations = chosen(bench.traces, scale)
    bench.say(f"autoscaling: {len(simulations)} comparisons are simulated")
    rows = measure(simulations)
    return Measured(decide(rows, scale), [figure] if (figure := _figure(rows)) else [])


def decide(rows: Sequence[Row], scale: Scale) -> list[Row]:
    """Rows of ours and of what it is compared with, each with its scale."""
    return [
        Row(row.name, row.value, row.unit, row.target, row.holds, f"{row.how}; simulated; {SAYS[scale]}")
        for row in rows
        if (found := COLD.match(row.name)) and "bound" not in found["policy"]
    ]


def _figure(rows: Sequence[Row]) -> Figure | None:
    """Cost by cold start, a curve a policy, of the first kind of arrivals; None of a single cold start."""
    kind = next((found["kind"] for row in rows if (found := COLD.match(row.name))), "")
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found = COLD.match(row.name)
        if (
            found
            and found["kind"] == kind
            and found["policy"] in POLICIES
            and isinstance(row.value, int | float)
        ):
            points.setdefault(found["policy"], []).append((float(found["cold"]), float(row.value)))
    curves = [Curve(name, *map(list, zip(*sorted(at), strict=True))) for name, at in points.items()]
    if not any(len(curve.xs) > 1 for curve in curves):
        return None
    return Figure(f"Cost against the fixed fleet, {kind}", "seconds of a cold start", "%", curves)


CLAIM = Claim(
    "autoscaling",
    "Scaling by forecast costs less than the smallest fixed fleet that meets the same p99, and than published policies",
    measured,
)
