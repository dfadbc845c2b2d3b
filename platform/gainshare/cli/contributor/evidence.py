"""Checks one sealed evidence document offline and stores it as a file."""

import json
from pathlib import Path
from typing import Any

from benchmarks.evidence.verify import verify_evidence


def check_evidence(sealed: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write ``sealed`` to ``path``, read it back and verify it; returns a row for the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sealed, indent=1) + "\n")
    report = verify_evidence(json.loads(path.read_text()))
    failed = [f"{check.name}: {check.detail}" for check in report.checks if not check.holds]
    return {
        "file": str(path),
        "ok": report.ok,
        "verdict": report.verdict.kind.value,
        "failed": failed,
        "phases_ns": sealed["document"]["phases_ns"] if report.digest is not None else {},
    }
