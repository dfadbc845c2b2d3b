"""How a run's evidence says that CPU time and memory were counted, for the run's page."""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from benchmarks.patch.trees import TreeError
from bounty.models import Evidence
from bounty.services.trees import blob_store


def counted_by(evidence: Evidence) -> Mapping[str, str]:
    """`cpu` and `memory` as in docs/reference/evidence.md; empty for a document from before evidence said it, or one that is lost."""
    try:
        return _counted_by_blob(evidence.blob)
    except TreeError:
        return {}


@lru_cache(maxsize=256)
def _counted_by_blob(blob: str) -> Mapping[str, str]:
    """A blob is named by its content, so what was read once stays true."""
    sealed = json.loads(blob_store().get(blob))
    return MappingProxyType(dict(sealed["document"]["sandbox"].get("counted_by", {})))
