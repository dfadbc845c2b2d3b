"""Verification of sealed evidence, offline: everything that can be recomputed is.

A changed byte breaks digest and signature; a document that was signed with a wrong verdict breaks the recomputation.
What cannot be known offline (is the key trusted, which nonce was issued, which commitment was posted) is checked when
the caller says it, and is otherwise reported as not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.catalogue import SUITES
from benchmarks.evidence import commitment as commitments
from benchmarks.evidence import direct, earlier
from benchmarks.evidence.bugs import BUG_KINDS
from benchmarks.evidence.canonical import NotCanonical, parse
from benchmarks.evidence.counting import is_counted_for_awards
from benchmarks.evidence.decision import decide, make_plan
from benchmarks.evidence.document import digest, signed_bytes, verdict_from_dict
from benchmarks.evidence.gains import partner_rules
from benchmarks.evidence.pair_record import continues_faults
from benchmarks.evidence.samples import noise_floor_log_ppm, read_samples, thawed_side
from benchmarks.evidence.schema import SCHEMA, EvidenceError, validate
from benchmarks.evidence.signing import ALGORITHM, key_id, verify
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.patch.policy import Policy, harness_hash, load_policy

LOCAL_NONCE = "local"  # of runs on a contributor's own machine: never award-eligible
_NOT_GIVEN = "not checked: {} not given"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified. `is_checked` is False where the caller did not say what to compare with."""

    name: str
    holds: bool
    detail: str
    is_checked: bool = True


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """`ok` when every check holds. `verdict` is the recomputed one; `digest` names the document."""

    ok: bool
    checks: tuple[Check, ...]
    verdict: Verdict
    digest: str | None
    award_eligible: bool


def verify_bytes(data: bytes, **known: Any) -> VerificationReport:
    """`verify_evidence` of a file's content; strict about JSON (no key twice, no floats)."""
    try:
        sealed = parse(data)
    except NotCanonical as error:
        return _unreadable(str(error))
    return verify_evidence(sealed, **known)


def verify_evidence(
    sealed: Any,
    *,
    trusted_keys: Mapping[str, str] | None = None,
    nonce: str | None = None,
    commitment: str | None = None,
    require_installed_harness: bool = False,
) -> VerificationReport:
    """Verify a sealed document. Never raises for what it is given as `sealed`.

    `trusted_keys` maps key ids to public keys in base64; `nonce` is the one the control plane issued; `commitment` is
    what the runner posted before the first sample. With `require_installed_harness` the document must have been made
    by exactly this installation's judge and policy; without, a difference is only reported.
    """
    try:
        check_envelope(sealed)
        document, signature = sealed["document"], sealed["signature"]
        validate(document)
        found = digest(document)
        message = signed_bytes(document)
        recomputed = decide(document)
    except (EvidenceError, NotCanonical, RecursionError) as error:
        return _unreadable(str(error))
    checks = [
        Check("schema", True, document["schema"]),
        equal("digest", sealed["digest"], found),
        Check(
            "signature",
            verify(signature["public_key"], signature["value"], message),
            "Ed25519 over the canonical document",
        ),
        *key_checks(signature, trusted_keys),
        given("nonce", document["run"]["nonce"], nonce),
        Check(
            "commitment_opens",
            commitments.opens(
                document["commitment"], bytes.fromhex(document["secrets"]), document["run"]["nonce"]
            ),
            "the revealed secrets and the nonce are what was committed to",
        ),
        given("commitment_posted", document["commitment"], commitment),
        *_rule_checks(document, require_installed_harness),
        *_noise_checks(document),
        *_continued_checks(document),
        *_sample_checks(document, recomputed),
        _verdict_check(document, recomputed),
    ]
    ok = all(check.holds for check in checks)
    eligible = ok and document["sandbox"]["award_eligible"] is True
    return VerificationReport(ok, tuple(checks), recomputed, found, eligible)


def _unreadable(detail: str) -> VerificationReport:
    verdict = Verdict(VerdictKind.INFRASTRUCTURE_ERROR, f"This is not evidence: {detail}.")
    return VerificationReport(False, (Check("schema", False, detail),), verdict, None, False)


def check_envelope(sealed: Any) -> None:
    if not isinstance(sealed, dict) or sealed.keys() != {"document", "digest", "signature"}:
        raise EvidenceError("sealed evidence has exactly document, digest and signature")
    signature = sealed["signature"]
    if not isinstance(signature, dict) or signature.keys() != {"algorithm", "key_id", "public_key", "value"}:
        raise EvidenceError("a signature has exactly algorithm, key_id, public_key and value")
    if not all(isinstance(text, str) for text in (sealed["digest"], *signature.values())):
        raise EvidenceError("digest and signature are strings")
    if signature["algorithm"] != ALGORITHM:
        raise EvidenceError(f"the signature's algorithm is not {ALGORITHM}")


def equal(name: str, stated: str, computed: str) -> Check:
    return Check(
        name, stated == computed, computed if stated == computed else f"{stated} stated, {computed} computed"
    )


def given(name: str, stated: str, expected: str | None) -> Check:
    if expected is None:
        return Check(name, True, _NOT_GIVEN.format(name), is_checked=False)
    return Check(name, stated == expected, stated if stated == expected else f"{stated}, expected {expected}")


def key_checks(signature: dict[str, str], trusted: Mapping[str, str] | None) -> list[Check]:
    try:
        name = key_id(signature["public_key"])
    except ValueError:
        return [Check("key_id", False, "the public key is malformed")]
    checks = [equal("key_id", signature["key_id"], name)]
    if trusted is None:
        checks.append(Check("key_trusted", True, _NOT_GIVEN.format("a list of keys"), is_checked=False))
    else:
        is_trusted = trusted.get(name) == signature["public_key"]
        checks.append(
            Check("key_trusted", is_trusted, f"key {name} is {'' if is_trusted else 'not '}trusted")
        )
    return checks


def _rule_checks(document: dict[str, Any], is_required: bool) -> list[Check]:
    """Compare the document's policy, harness and claim to awards with the installed ones."""
    policy, harness = load_policy(), harness_hash()
    same_policy, same_harness = document["policy_hash"] == policy.hash, document["harness"]["hash"] == harness
    checks = [
        Check(
            name,
            same or not is_required,
            hashed if same else f"{hashed}, installed is another",
            same or is_required,
        )
        for name, same, hashed in (
            ("policy", same_policy, document["policy_hash"]),
            ("harness", same_harness, document["harness"]["hash"]),
        )
    ]
    checks.append(Check("sandbox", True, _sandbox(document["sandbox"])))
    if document["sandbox"]["award_eligible"]:
        against = _against_awards(
            document, load_policy() if same_policy else None, is_same_judge=same_harness
        )
        checks.append(
            Check(
                "award_eligible", against is None, against or "level, nonce, plan and suite may earn awards"
            )
        )
    return checks


def _noise_checks(document: dict[str, Any]) -> list[Check]:
    """The stated noise floor against the samples'; documents before schema 3 state none."""
    if document["schema"] != SCHEMA:
        return []
    stated, computed = document["environment"]["noise_floor_log_ppm"], noise_floor_log_ppm(document)
    return [equal("noise_floor", f"{stated} log_ppm", f"{computed} log_ppm")]


def _continued_checks(document: dict[str, Any]) -> list[Check]:
    """The signed records of earlier pairs: each whole, signed, and of the same base, suite and judge."""
    records = document.get("continues", [])
    if not records:
        return []
    faults = continues_faults(document)
    return [Check("continues", not faults, "; ".join(faults) or f"{len(records)} earlier pairs, each signed")]


def _sandbox(sandbox: dict[str, Any]) -> str:
    """The level, and how far its figures can be relied on: docs/reference/evidence.md says what each way of counting misses."""
    counted = sandbox.get("counted_by")
    if counted is None:
        return f"{sandbox['level']}; the document is older than the statement of how CPU time and memory were counted"
    return f"{sandbox['level']}; CPU time counted by {counted['cpu']}, memory by {counted['memory']}"


def _against_awards(document: dict[str, Any], policy: Policy | None, *, is_same_judge: bool) -> str | None:
    """Find what contradicts the document's claim to be award-eligible, as far as this installation can tell."""
    level, suite = document["sandbox"]["level"], document["suite"]
    if document["run"]["nonce"] == LOCAL_NONCE:
        return "a run on a contributor's own machine earns no awards"
    if policy is not None and level not in policy.award_sandbox_levels:
        return f"sandbox level {level} earns no awards"
    if is_same_judge and document["schema"] != SCHEMA:
        return f"this judge writes {SCHEMA}"
    if is_same_judge and "counted_by" not in document["sandbox"]:
        return "it does not say how CPU time and memory were counted"
    if is_same_judge and not is_counted_for_awards(suite["name"], document["sandbox"]["counted_by"]):
        return (
            f"memory was counted by {document['sandbox']['counted_by']['memory']}: {suite['name']} earns awards only "
            "where a cgroup counted its peak"
        )
    if is_same_judge and earlier.KEY not in document:
        return "it does not say which confirmations the person had against this base before"
    if is_same_judge and document.get("old") is not None and not direct.has_rules(document):
        return "it takes no direct pairs of the old tree and the candidate"
    if is_same_judge and document["plan"] != make_plan():
        return "the plan is not the judge's"
    if is_same_judge and not _is_catalogued(suite):
        return f"the limits of suite {suite['name']} are not the catalogue's"
    return None


def _is_catalogued(suite: dict[str, Any]) -> bool:
    known, stated = SUITES.get(suite["name"]), suite["policy"]
    return known is not None and (
        stated["minimum_effect_log_ppm"],
        stated["cap_log_ppm"],
        stated["worst_case_log_ppm"],
    ) == (known.minimum_effect_log_ppm, known.cap_log_ppm, known.worst_case_log_ppm)


def _sample_checks(document: dict[str, Any], verdict: Verdict) -> list[Check]:
    """Report what the raw samples show, for people to read: the verdict follows from them."""
    samples = read_samples(document)
    thawed = thawed_side(document)
    expected_to_hold = verdict.kind in (VerdictKind.GAIN, VerdictKind.NO_GAIN, VerdictKind.REGRESSION)
    outputs = document["checks"]
    checks = [
        Check(
            "frozen_cpu",
            thawed is None or not expected_to_hold,
            "idle sides used no CPU time"
            if thawed is None
            else f"{thawed[1]} ran while frozen in pair {thawed[0]}",
        ),
        Check(
            "outputs",
            not (expected_to_hold and outputs["failures"]),
            f"{outputs['outputs_checked']} compared, {outputs['oracle_checked']} with the oracle, "
            f"{len(outputs['failures'])} wrong",
        ),
    ]
    if verdict.kind is VerdictKind.GAIN and document["run"]["kind"] not in ("aa", "guard", *BUG_KINDS):
        rules = partner_rules(document)
        enough = rules.has_enough(document, samples, verdict.pairs)
        checks.append(Check("controls", enough, rules.counted(document, samples, verdict.pairs)))
    return checks


def _verdict_check(document: dict[str, Any], recomputed: Verdict) -> Check:
    """The stated verdict against the recomputed one; its words only where the same judge wrote them."""
    stated = verdict_from_dict(document["verdict"])
    facts = ("kind", "log_ppm_estimate", "log_ppm_bound", "pairs")
    wrong = [name for name in facts if getattr(stated, name) != getattr(recomputed, name)]
    if document["harness"]["hash"] == harness_hash() and stated.reason != recomputed.reason:
        wrong.append("reason")
    if wrong:
        return Check(
            "verdict",
            False,
            f"stated {stated.kind}, recomputed {recomputed.kind}; differs in {', '.join(wrong)}",
        )
    return Check("verdict", True, f"{recomputed.kind}, recomputed from {recomputed.pairs} pairs")
