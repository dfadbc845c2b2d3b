"""Building and sealing a canary's document: shape, verdict, digest, signature of the host's key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.canary.order import CanaryOrder
from benchmarks.canary.results import BatchTime, CanaryVerdict, LineResult, PrefillTime
from benchmarks.canary.schema import SCHEMA, SCHEMA_1, validate
from benchmarks.canary.verdict import decide
from benchmarks.evidence.canonical import canonical_bytes, parse
from benchmarks.evidence.document import seal_form
from benchmarks.patch.policy import harness_hash


def build_document(
    order: CanaryOrder,
    *,
    hashes: Mapping[str, str],
    environment: dict[str, Any],
    sandbox: dict[str, Any],
    device: str,
    memory_bytes: int,
    arguments: list[str],
    secret: str,
    comparisons: list[dict[str, Any]],
    planted: int,
    events: list[dict[str, str]],
    started_at: datetime,
    finished_at: datetime,
) -> dict[str, Any]:
    """The document with its verdict. Raises EvidenceError for what could not be verified later."""
    document = parse(
        canonical_bytes(
            {
                "schema": SCHEMA,
                "order": order.to_json(),
                "harness": {"hash": harness_hash()},
                "environment": environment,
                "sandbox": sandbox,
                "device": device,
                "memory_bytes": memory_bytes,
                "arguments": arguments,
                "trees": dict(hashes),
                "secret": secret,
                "comparisons": comparisons,
                "planted": planted,
                "events": events,
                "started_at": started_at.isoformat(),
                "finished_at": finished_at.isoformat(),
            }
        )
    )
    document["verdict"] = verdict_to_dict(decide(document), document["schema"])
    validate(document)
    return document  # type: ignore[no-any-return]


def verdict_to_dict(verdict: CanaryVerdict, schema: str = SCHEMA) -> dict[str, Any]:
    """A verdict as it is in a document of this schema."""
    told = verdict.to_json()
    if schema == SCHEMA_1:
        del told["prefill_times"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def verdict_from_dict(value: Mapping[str, Any]) -> CanaryVerdict:
    """The verdict of a validated document."""
    return CanaryVerdict(
        passed=value["passed"],
        why=value["why"],
        served={name: LineResult(**line) for name, line in value["served"].items()},
        best={name: LineResult(**line) for name, line in value["best"].items()},
        batch_times=tuple(BatchTime(**one) for one in value["batch_times"]),
        prefill_times=tuple(PrefillTime(**one) for one in value.get("prefill_times", ())),
    )


def seal(document: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The sealed form, signed with the host's key. Raises EvidenceError or NotCanonical."""
    validate(document)
    return seal_form(document, key)


def write_sealed(sealed: dict[str, Any], path: Path) -> None:
    """Whole or not at all, readable by this user only."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_bytes(canonical_bytes(sealed))
    part.replace(path)
