"""One complete pair as a signed document of its own: what a runner posts before it begins the next pair.

So the pairs of a run that was lost or cancelled are kept, and a later run of the same candidate against the same base
continues from them: measuring again is never a second draw. A run's evidence holds the records that it continues.
"""

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.evidence.document import digest, seal_form, signed_bytes
from benchmarks.evidence.samples import is_complete, thawed_tree
from benchmarks.evidence.schema import PAIR_SCHEMA, EvidenceError, validate_record
from benchmarks.evidence.signing import key_id, verify

POOLED_KINDS = ("gate", "confirmation")  # a guard run's rails and bugs are decided by one run


def pair_record(parts: dict[str, Any], pair: dict[str, Any], checks: dict[str, int]) -> dict[str, Any]:
    """The record of a complete pair of the run whose document will have these `parts`.

    `checks` counts the pair's outputs: compared with base's, and with the oracle. Raises EvidenceError.
    """
    suite = parts["suite"]
    calls = {case["name"]: case["calls"] for case in suite["cases"]}
    record = {
        "schema": PAIR_SCHEMA,
        "run": parts["run"],
        "suite": {"name": suite["name"], "preset": suite["preset"]},
        "trees": parts["trees"],
        "harness_hash": parts["harness"]["hash"],
        "calls": calls[pair["case"]],
        "checks": checks,
        "pair": pair,
    }
    validate_record(record)
    return record


def seal_pair(record: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The signed form, as that of evidence."""
    return seal_form(record, key)


def fault_of(sealed: Any, *, public_key: str | None = None) -> str:
    """What is wrong with a signed record, as far as it can be told from itself; empty if nothing is.

    `public_key` is the signer's, where it is known.
    """
    try:
        record, signature = sealed["document"], sealed["signature"]
        validate_record(record)
        if not is_complete(record["pair"], record["calls"]):
            return "the pair is not complete"
        if thawed_tree(record["pair"]) is not None:
            return "a side of the pair ran while it was frozen"
        if sealed["digest"] != digest(record):
            return "the digest is not that of the record"
        if public_key is not None and signature["public_key"] != public_key:
            return "it is signed by another key"
        if signature["key_id"] != key_id(signature["public_key"]):
            return "the key has another name"
        is_signed = verify(signature["public_key"], signature["value"], signed_bytes(record))
        return "" if is_signed else "the signature does not hold"
    except (EvidenceError, KeyError, TypeError, ValueError) as error:
        return f"it is not the record of a pair: {error}"


def continues_faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with the records that a document continues: each must be of the same trees, suite, preset and judge."""
    faults = []
    for number, sealed in enumerate(document["continues"]):
        record = sealed["document"]
        fault = fault_of(sealed) or _belongs(record, document)
        if fault:
            faults.append(f"record {number}: {fault}")
    return faults


def _belongs(record: dict[str, Any], document: dict[str, Any]) -> str:
    suite = document["suite"]
    pairs: Sequence[tuple[str, Any, Any]] = (
        ("kind", record["run"]["kind"], document["run"]["kind"]),
        ("suite", record["suite"], {"name": suite["name"], "preset": suite.get("preset")}),
        ("trees", record["trees"]["base"], document["trees"]["base"]),
        ("judge", record["harness_hash"], document["harness"]["hash"]),
    )
    return "; ".join(f"another {name}" for name, stated, expected in pairs if stated != expected)
