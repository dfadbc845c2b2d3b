"""Verification of a sealed canary, offline: everything that can be recomputed is.

What cannot be known offline (is the key a host's, which nonce and plan did the site give) is checked when the caller
says it, and is otherwise reported as not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.canary.document import verdict_to_dict
from benchmarks.canary.order import CanaryOrder
from benchmarks.canary.results import CanaryVerdict
from benchmarks.canary.schema import MOST_BYTES, SCHEMAS, validate
from benchmarks.canary.verdict import decide
from benchmarks.evidence.canonical import NotCanonical, canonical_bytes, parse
from benchmarks.evidence.document import digest, signed_bytes
from benchmarks.evidence.schema import EvidenceError
from benchmarks.evidence.signing import verify
from benchmarks.evidence.verify import Check, check_envelope, equal, given, key_checks
from benchmarks.patch.policy import harness_hash


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """`ok` when every check holds. `verdict` is the recomputed one; `digest` names the document, None where it is none."""

    ok: bool
    checks: tuple[Check, ...]
    verdict: CanaryVerdict
    digest: str | None


def is_canary(sealed: Any) -> bool:
    """Whether a sealed document says that it is a canary's."""
    document = sealed.get("document") if isinstance(sealed, dict) else None
    return isinstance(document, dict) and document.get("schema") in SCHEMAS


def verify_canary_bytes(data: bytes, **known: Any) -> CanaryReport:
    """`verify_canary` of what a host sent: strict about JSON and bounded in size."""
    if len(data) > MOST_BYTES:
        return _unreadable(f"the document has more than {MOST_BYTES} bytes")
    try:
        return verify_canary(parse(data), **known)
    except NotCanonical as error:
        return _unreadable(str(error))


def verify_canary(
    sealed: Any,
    *,
    trusted_keys: Mapping[str, str] | None = None,
    nonce: str | None = None,
    order: CanaryOrder | None = None,
) -> CanaryReport:
    """Verify a sealed document. Never raises for what it is given as `sealed`.

    `trusted_keys` maps key ids to public keys in base64, as the host's registered one; `nonce` is the site's; `order` is
    what the site asked for, which the document must repeat to the byte.
    """
    try:
        check_envelope(sealed)
        document, signature = sealed["document"], sealed["signature"]
        if len(canonical_bytes(document)) > MOST_BYTES:
            raise EvidenceError(f"the document has more than {MOST_BYTES} bytes")
        validate(document)
        found, message, recomputed = digest(document), signed_bytes(document), decide(document)
    except (EvidenceError, NotCanonical, RecursionError) as error:
        return _unreadable(str(error))
    is_same_judge = document["harness"]["hash"] == harness_hash()
    checks = (
        Check("schema", True, document["schema"]),
        equal("digest", sealed["digest"], found),
        Check(
            "signature",
            verify(signature["public_key"], signature["value"], message),
            "Ed25519 over the canonical document",
        ),
        *key_checks(signature, trusted_keys),
        given("nonce", document["order"]["nonce"], nonce),
        _order_check(document, order),
        *_tree_checks(document),
        Check(
            "harness",
            True,
            document["harness"]["hash"] + ("" if is_same_judge else ", installed is another"),
            is_same_judge,
        ),
        Check("sandbox", True, f"{document['sandbox']['level']}, {document['device']}"),
        Check("leaks", True, f"{document['planted']} planted words were looked for"),
        _verdict_check(document, recomputed, is_same_judge=is_same_judge),
    )
    return CanaryReport(all(check.holds for check in checks), checks, recomputed, found)


def _order_check(document: dict[str, Any], order: CanaryOrder | None) -> Check:
    if order is None:
        return Check("order", True, "not checked: the site's order is not given", is_checked=False)
    asked = parse(canonical_bytes(order.to_json()))
    wrong = sorted(name for name in asked if asked[name] != document["order"][name])
    return Check("order", not wrong, f"differs in {', '.join(wrong)}" if wrong else "what the site asked for")


def _tree_checks(document: dict[str, Any]) -> list[Check]:
    """The hash of each tree that ran, against the one that was ordered; the installed one is ordered without a hash."""
    order, ran = document["order"], document["trees"]
    return [
        Check(
            f"tree_{name}",
            order[name] in ("", ran[name]),
            ran[name] if order[name] else f"{ran[name]}, the host's installed tree",
        )
        for name in ("served", "candidate", "best")
    ]


def _verdict_check(document: dict[str, Any], recomputed: CanaryVerdict, *, is_same_judge: bool) -> Check:
    """The stated verdict against the recomputed one; its words only where the same judge wrote them."""
    stated, found = document["verdict"], verdict_to_dict(recomputed, document["schema"])
    wrong = sorted(name for name in found if found[name] != stated[name] and (name != "why" or is_same_judge))
    if wrong:
        return Check(
            "verdict", False, f"what is stated differs from what the samples say, in {', '.join(wrong)}"
        )
    return Check(
        "verdict", True, f"{'passed' if recomputed.passed else 'refused'}, recomputed from the samples"
    )


def _unreadable(detail: str) -> CanaryReport:
    verdict = CanaryVerdict(False, f"This is no canary's document: {detail}.")
    return CanaryReport(False, (Check("schema", False, detail),), verdict, None)
