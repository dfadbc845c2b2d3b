"""Figures of deployments under load. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.report import Row
from benchmarks.served.site import Deployed
from benchmarks.statistics.units import signed_percent

TARGET_SERVED_S = 300.0
SERVED = ("serving", "superseded")


def deployment_rows(deployed: Sequence[Deployed], *, answered: int, failures: Sequence[str]) -> list[Row]:
    """Rows of all deployments: the time until a tree served, its canary's part, and the requests meanwhile."""
    served = [one.served_s for one in deployed if one.served_s is not None]
    canaries = [one.canary_s for one in deployed if one.canary_s is not None]
    refused = sorted({f"{one.state}: {one.why}" for one in deployed if one.state not in SERVED})
    ended = f"{len(served)} of {len(deployed)} deployments served" + (
        f"; {'; '.join(refused)}" if refused else ""
    )
    middle = statistics.median(served) if served else None
    return [
        Row(
            "merge to served, median",
            None if middle is None else round(middle, 1),
            "s",
            f"<= {TARGET_SERVED_S:.0f} s",
            None if middle is None else middle <= TARGET_SERVED_S and len(served) == len(deployed),
            ended,
        ),
        Row(
            "failed requests meanwhile",
            len(failures),
            "",
            "0",
            not failures if answered else None,
            f"of {answered + len(failures)}"
            + (f"; {'; '.join(sorted(set(failures))[:3])}" if failures else ""),
        ),
        Row(
            "a canary, median",
            round(statistics.median(canaries), 1) if canaries else None,
            "s",
            None,
            None,
            f"{len(canaries)} canaries, {min(canaries):.1f} to {max(canaries):.1f} s" if canaries else "none",
        ),
    ]


def saving_rows(name: str, deployed: Deployed, suite: str, suite_bound_log_ppm: int | None) -> list[Row]:
    """Rows of one gain: what its canary saved of each line, with its suite's bound."""
    stated = "not measured" if suite_bound_log_ppm is None else signed_percent(suite_bound_log_ppm)
    return [
        Row(
            f"{name}: {line}, at least",
            signed_percent(found["bound_log_ppm"]),
            "",
            None,
            None,
            f"by its canary, {found['pairs']} pairs; suite {suite}: {stated}",
        )
        for line, found in deployed.result.get("best", {}).items()
    ]
