"""How a run's evidence says that CPU time and memory were counted, for the run's page."""

import json
from typing import Any

from benchmarks.trees import TreeError
from bounty.models import Evidence
from bounty.services.trees import blob_store


def counted_by(evidence: Evidence) -> dict[str, str]:
    """`cpu` and `memory` as in docs/evidence.md; empty for a document from before evidence said it, or one that is lost."""
    try:
        sealed: dict[str, Any] = json.loads(blob_store().get(evidence.blob))
    except TreeError:
        return {}
    counted: dict[str, str] = sealed["document"]["sandbox"].get("counted_by", {})
    return counted
