"""Methods by which CPU time and memory were counted, from a run's evidence."""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from benchmarks.patch.trees import TreeError
from bounty.models import Evidence
from bounty.services.trees import blob_store


def counted_by(evidence: Evidence) -> Mapping[str, str]:
    """`cpu` and `memory` as in docs/reference/evidence.md; empty for a lost document or one of an older version."""
    try:
        return _counted_by_blob(evidence.blob)
    except TreeError:
        return {}


@lru_cache(maxsize=256)
def _counted_by_blob(blob: str) -> Mapping[str, str]:
    """Cached by blob, which never changes."""
    sealed = json.loads(blob_store().get(blob))
    return MappingProxyType(dict(sealed["document"]["sandbox"].get("counted_by", {})))
