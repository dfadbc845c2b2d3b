"""Building and sealing an evidence document: shape, verdict, digest, signature.

A sealed document is `{"document": ..., "digest": "sha256:...", "signature": {...}}`.
"""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.evidence.canonical import canonical_bytes
from benchmarks.evidence.decision import decide
from benchmarks.evidence.samples import noise_floor_log_ppm
from benchmarks.evidence.schema import SCHEMA, validate
from benchmarks.evidence.signing import ALGORITHM, key_id, public_key, sign
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.patch.trees import sha256_hex


def build_document(
    *,
    run: dict[str, Any],
    suite: dict[str, Any],
    plan: dict[str, Any],
    trees: dict[str, str],
    harness: dict[str, str],
    policy_hash: str,
    environment: dict[str, Any],
    sandbox: dict[str, Any],
    commitment: str,
    secrets: str,
    pairs: list[dict[str, Any]],
    checks: dict[str, Any],
    phases_ns: dict[str, int],
    events: list[dict[str, Any]],
    started_at: str,
    finished_at: str,
    trials: list[dict[str, Any]] | None = None,
    continues: list[dict[str, Any]] | None = None,
    old: dict[str, Any] | None = None,
    base_checks: list[dict[str, Any]] | None = None,
    earlier_confirmations: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The document of a run with its verdict. Every part has the shape of docs/reference/evidence.md; raises EvidenceError.

    `continues` holds the signed records of earlier pairs that this run continues; `old` names the tree that base's
    award was priced against, what was paid, and that direct pairs are taken (`tree`, `paid_log_ppm`, `direct`); `earlier_confirmations` says what the person's
    other candidates had against this base (`count`, `lowest_log_ppm`). The noise floor is put into the environment.
    `secrets` is hex; times of day are ISO 8601 with an offset; all durations are integer nanoseconds.
    """
    document = {
        "schema": SCHEMA,
        "run": run,
        "suite": suite,
        "plan": plan,
        "trees": trees,
        "harness": harness,
        "policy_hash": policy_hash,
        "environment": environment,
        "sandbox": sandbox,
        "commitment": commitment,
        "secrets": secrets,
        "pairs": pairs,
        "checks": checks,
        "phases_ns": phases_ns,
        "events": events,
        "trials": trials or [],
        "continues": continues or [],
        "old": old,
        "base_checks": base_checks or [],
        "earlier_confirmations": earlier_confirmations,
        "started_at": started_at,
        "finished_at": finished_at,
    }
    verdict = decide(document)
    document["environment"] = {**environment, "noise_floor_log_ppm": noise_floor_log_ppm(document)}
    document["verdict"] = verdict_to_dict(verdict)
    validate(document)
    return document


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is in a document."""
    return {
        "kind": verdict.kind.value,
        "reason": verdict.reason,
        "log_ppm_estimate": verdict.log_ppm_estimate,
        "log_ppm_bound": verdict.log_ppm_bound,
        "pairs": verdict.pairs,
    }


def verdict_from_dict(value: dict[str, Any]) -> Verdict:
    """The verdict of a validated document."""
    return Verdict(
        VerdictKind(value["kind"]),
        value["reason"],
        value["log_ppm_estimate"],
        value["log_ppm_bound"],
        value["pairs"],
    )


def digest(document: dict[str, Any]) -> str:
    """`sha256:` and the SHA-256 of the document's canonical bytes: its name everywhere."""
    return "sha256:" + sha256_hex(canonical_bytes(document))


def signed_bytes(document: dict[str, Any]) -> bytes:
    """Bytes that a runner signs: the schema's name, a newline, the canonical document."""
    return str(document["schema"]).encode() + b"\n" + canonical_bytes(document)


def seal(document: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The sealed form. Raises EvidenceError or NotCanonical for a document that could not be verified later."""
    validate(document)
    return seal_form(document, key)


def seal_form(document: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Any document with its digest and signature. Raises NotCanonical."""
    public = public_key(key)
    return {
        "document": document,
        "digest": digest(document),
        "signature": {
            "algorithm": ALGORITHM,
            "key_id": key_id(public),
            "public_key": public,
            "value": sign(key, signed_bytes(document)),
        },
    }
