"""Play the demo and read from its record how long each part of judging took."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.loop.commands import gainshare
from benchmarks.report import Row

START_TARGET_S = 1.0
BUDGET_S = {"gain": 40.0, "regression": 40.0, "no_gain": 90.0}
CONFIRMATION_BUDGET_S = 120.0


def judging_rows(env: Mapping[str, str]) -> list[Row]:
    """Rows for the time until an idle runner starts, and for each verdict of the demo, with its kind's budget."""
    record = gainshare("demo", env=env, may_fail=True)
    demo_row = Row(
        name="demo, every step as expected",
        value=record["seconds"],
        unit="s",
        target="exit 0",
        holds=record["ok"],
        how="; ".join(step["name"] for step in record["steps"] if not step["ok"]) or "gainshare demo --json",
    )
    rows = [demo_row]
    phases = {Path(row["file"]).stem: row["phases_ns"] for row in record["evidence"]}
    for submission in record["submissions"]:
        for run in submission["runs"]:
            is_first = submission is record["submissions"][0]
            rows.extend(_run_rows(submission, run, phases.get(run["id"], {}), is_first=is_first))
    return rows


def _run_rows(
    submission: dict[str, Any], run: dict[str, Any], phases_ns: Mapping[str, int], *, is_first: bool
) -> list[Row]:
    rows = []
    if is_first and run["kind"] == "gate":
        waited = _seconds(run["queued_at"], run["leased_at"])
        how = "first submission of an idle stack: run queued -> leased by the runner"
        rows.append(
            Row("submission accepted to runner start", waited, "s", "<= 1 s", waited <= START_TARGET_S, how)
        )
    spent = _seconds(run["leased_at"], run["finished_at"])
    kind = run["verdict"]["kind"]
    budget = {"confirmation": CONFIRMATION_BUDGET_S, "gate": BUDGET_S.get(kind)}.get(run["kind"])
    split = ", ".join(f"{phase} {ns / 1e9:.1f}" for phase, ns in phases_ns.items())
    rows.append(
        Row(
            name=f"{run['kind']} of {submission['diff'].removeprefix('patches/')}: {kind}",
            value=spent,
            unit="s",
            target=f"<= {budget:.0f} s" if budget else None,
            holds=spent <= budget if budget else None,
            how=f"{run['pairs_done']} pairs; leased -> verdict" + (f"; {split} s" if split else ""),
        )
    )
    return rows


def _seconds(start: str, end: str) -> float:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 2)
