"""Plots of simulations: nodes and requests over time."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.line_chart import Line, Panel, draw
from gainshare.capacity.simulation.results import Outcome


def plot(title: str, outcomes: Sequence[Outcome]) -> str:
    """An SVG document: nodes of each run, and requests in progress and waiting of each, by the hour."""
    runs = [one for one in outcomes if len(one.timeline)]
    nodes = [Line(one.policy, _hours(one), one.timeline[:, 1].tolist()) for one in runs]
    requests = [
        Line(one.policy, _hours(one), (one.timeline[:, 2] + one.timeline[:, 3]).tolist()) for one in runs
    ]
    panels = [Panel("nodes that cost", nodes), Panel("requests in progress and waiting", requests)]
    return draw(title, panels, x_name="hours")


def _hours(outcome: Outcome) -> list[float]:
    hours: list[float] = (outcome.timeline[:, 0] / 3600).tolist()
    return hours
