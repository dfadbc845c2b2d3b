"""The shape of an evidence document, checked strictly before anything is concluded from it.

docs/reference/evidence.md describes the same in words.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.pairs.seats import SEATS, SIDES, has_tree
from benchmarks.statistics.confirm import LEAST_PAIRS
from benchmarks.statistics.gate import LOOKS

SCHEMA = "gainshare.evidence/3"
SCHEMA_2 = "gainshare.evidence/2"  # its documents verify by the rules that they were signed under
SCHEMAS = (SCHEMA, SCHEMA_2)
PAIR_SCHEMA = "gainshare.pair/1"  # of one pair's record: benchmarks.evidence.pair_record
RUN_KINDS = ("gate", "confirmation", "guard", "aa", "reproduction", "fix")
TREES = ("base", "candidate", "old")  # what an event may name as its side
EVENT_KINDS = (
    "protocol_violation",  # a sample did not speak the protocol: extra bytes, answers no one asked for
    "policy_violation",  # it did what the policy forbids
    "wrong_output",
    "resource_limit",
    "timeout",
    "crash",
    "build_failed",
    "quality_loss",
    "suspicious",  # past the roofline, or another sign that a human must look at
    "infrastructure_error",  # shown by something outside the sandbox
    "cancelled",
)
TRIED_KINDS = ("reproduction", "fix")  # their suite names a reproduction, and only they have trials
TRIAL_OUTCOMES = {
    "read": ("readable", "broken"),  # side "none": the reproduction alone, without a tree
    # what observing a tree came to; malformed is no plain JSON data
    "observe": ("answered", "raised", "crashed", "timeout", "resource_limit", "malformed"),
    "check": ("holds", "refused", "broken"),  # of what was seen of that side's tree
}
CGROUPS = ("cgroup-v1", "cgroup-v2")
MOST_LOG_PPM = 40_000_000  # e^40: no ratio of times is beyond it
MOST_ALPHA_PPM = 100_000
_HEX = re.compile(r"[0-9a-f]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Rule = Callable[[Any], bool]


class EvidenceError(ValueError):
    """A document that is not evidence. The message names the field."""


def validate(document: Any, *, has_verdict: bool = True) -> None:
    """Raise EvidenceError unless `document` has exactly the declared shape."""
    schema = document.get("schema") if isinstance(document, dict) else None
    is_second = schema == SCHEMA_2
    rules = dict(_DOCUMENT if is_second else _DOCUMENT_3)
    if schema == SCHEMA and "earlier_confirmations" not in document:
        del rules["earlier_confirmations"]  # signed before they were counted
    if not has_verdict:
        del rules["verdict"]
    if is_second and "trials" not in document:
        del rules["trials"]  # signed before there were any
    _fields(document, rules, "document")
    if document["run"]["kind"] in TRIED_KINDS:
        _fields(document["suite"], {"reproduction": _sha256}, "document.suite", is_open=True)
        if "trials" not in document:
            raise EvidenceError("document.trials is missing")
    elif document.get("trials"):
        raise EvidenceError("document.trials belongs to runs about a bug only")
    if "counted_by" in document["sandbox"]:  # documents signed before this was stated lack it
        _fields(document["sandbox"], {"counted_by": _COUNTED_BY}, "document.sandbox", is_open=True)
    cases = {case["name"]: 2 * case["calls"] for case in document["suite"]["cases"]}
    _pairs(document["pairs"], set(cases))
    if not is_second:
        _third(document, has_verdict=has_verdict)
        for number, attempt in enumerate(document["base_checks"]):
            _base_check(attempt, cases, f"document.base_checks[{number}]")
    if _time(document["finished_at"]) < _time(document["started_at"]):
        raise EvidenceError("document.finished_at is before started_at")


def validate_record(record: Any) -> None:
    """Raise EvidenceError unless `record` has exactly the shape of one pair's record."""
    _fields(record, _RECORD, "record")
    _pairs([record["pair"]], {record["pair"].get("case")})
    _fields(record["pair"], _PAIR_3, "record.pair", is_open=True)


def _third(document: dict[str, Any], *, has_verdict: bool) -> None:
    """What schema 3 asks for in addition to schema 2."""
    if has_verdict:  # computed from the samples when the document is built
        rule = {"noise_floor_log_ppm": lambda value: value is None or _natural(value)}
        _fields(document["environment"], rule, "document.environment", is_open=True)
    if (slots := document["environment"].get("slots")) is not None:
        _fields(slots, _SLOTS, "document.environment.slots")
    if document["old"] is not None:
        if document["run"]["kind"] != "confirmation":
            raise EvidenceError("document.old belongs to confirmations only")
        is_older = "direct" not in document["old"]  # signed before there were direct pairs
        _fields(document["old"], _OLD if is_older else {**_OLD, "direct": _flag}, "document.old")
    if (earlier := document.get("earlier_confirmations")) is not None:
        if document["run"]["kind"] != "confirmation":
            raise EvidenceError("document.earlier_confirmations belongs to confirmations only")
        _fields(earlier, _EARLIER, "document.earlier_confirmations")
    cases = {case["name"] for case in document["suite"]["cases"]}
    if any(sealed["document"]["pair"]["case"] not in cases for sealed in document["continues"]):
        raise EvidenceError("document.continues has a pair of another suite")
    for number, pair in enumerate(document["pairs"]):
        where = f"document.pairs[{number}]"
        _fields(pair, _PAIR_3, where, is_open=True)
        if pair["control"] != (pair["tree"] == "base"):
            raise EvidenceError(f"{where}.control does not fit its tree")
        if pair["control"] != (pair["next_to"] is not None):
            raise EvidenceError(f"{where}.next_to is for control pairs, and only for them")
        if has_tree(pair["tree"], "old") and document["old"] is None:
            raise EvidenceError(f"{where} has the old tree, and the document names none")
        if pair["tree"] == "direct" and not document["old"].get("direct"):
            raise EvidenceError(f"{where} is a direct pair, and the document says that the run takes none")


def _fields(value: Any, rules: dict[str, Any], where: str, *, is_open: bool = False) -> None:
    """Check a dict: each rule's key must be there and hold; other keys only where `is_open`."""
    if not isinstance(value, dict):
        raise EvidenceError(f"{where} is not an object")
    if missing := sorted(rules.keys() - value.keys()):
        raise EvidenceError(f"{where}.{missing[0]} is missing")
    if not is_open and (extra := sorted(map(repr, value.keys() - rules.keys()))):
        raise EvidenceError(f"{where} has the unknown key {extra[0]}")
    for key, rule in rules.items():
        if isinstance(rule, dict):
            _fields(value[key], rule, f"{where}.{key}")
        elif isinstance(rule, _Open):
            _fields(value[key], rule.rules, f"{where}.{key}", is_open=True)
        elif not rule(value[key]):
            raise EvidenceError(f"{where}.{key} is not what it must be")


class _Open:
    """A nested object that may hold more than these keys."""

    def __init__(self, **rules: Any) -> None:
        self.rules = rules


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _integer(value: Any) -> bool:
    return type(value) is int


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _flag(value: Any) -> bool:
    return type(value) is bool


def _optional_integer(value: Any) -> bool:
    return value is None or _integer(value)


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.fullmatch(value) is not None


def _hex_bytes(value: Any) -> bool:
    return isinstance(value, str) and len(value) % 2 == 0 and _HEX.fullmatch(value) is not None


def _timestamp(value: Any) -> bool:
    try:
        return _time(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _case(value: Any) -> bool:
    return isinstance(value, dict) and _name(value.get("name")) and _positive(value.get("calls"))


def _cases(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(map(_case, value))
        and len({case["name"] for case in value}) == len(value)
    )


def _looks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and tuple(value) == LOOKS[: len(value)]


def _naturals(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and _natural(v) for k, v in value.items())


def _is_side(value: Any) -> bool:
    return isinstance(value, str) and value in SIDES


def _is_tree(value: Any) -> bool:
    return isinstance(value, str) and value in TREES


def _is_kind_of_pair(value: Any) -> bool:
    return isinstance(value, str) and value in SEATS


def _records(value: Any) -> bool:
    """A list of different signed records of pairs."""
    try:
        for sealed in value:
            _fields(sealed, _SEALED, "record")
            validate_record(sealed["document"])
    except (EvidenceError, TypeError, KeyError):
        return False
    return isinstance(value, list) and len({sealed["digest"] for sealed in value}) == len(value)


def _digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _digest_or_none(value: Any) -> bool:
    return value == "" or _sha256(value)


def _events(value: Any, is_side: Rule = _is_side) -> bool:
    return isinstance(value, list) and all(
        isinstance(event, dict)
        and event.keys() <= {"kind", "detail", "side", "stage", "pair"}
        and isinstance(event.get("kind"), str)
        and event["kind"] in EVENT_KINDS
        and _text(event.get("detail"))
        and is_side(event.get("side", "candidate"))
        and _text(event.get("stage", ""))
        and _natural(event.get("pair", 0))
        for event in value
    )


def _trials(value: Any) -> bool:
    return isinstance(value, list) and all(map(_trial, value))


def _trial(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"step", "side", "attempt", "outcome", "detail"}:
        return False
    step, side = value["step"], value["side"]
    return (
        isinstance(step, str)
        and value["outcome"] in TRIAL_OUTCOMES.get(step, ())
        and (side == "none" if step == "read" else _is_side(side))
        and _natural(value["attempt"])
        and _text(value["detail"])
    )


def _call(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_side(value[0]) and _positive(value[1])


def _calls(value: Any) -> bool:
    """Turns of one call of each side, in any order; a last turn may be half, where a pair was interrupted."""
    return (
        isinstance(value, list)
        and all(map(_call, value))
        and all(first[0] != second[0] for first, second in zip(value[::2], value[1::2], strict=False))
    )


_PAIR: dict[str, Any] = {
    "index": _natural,
    "control": _flag,
    "case": _name,
    "spawn_order": lambda value: isinstance(value, list) and sorted(map(str, value)) == list(SIDES),
    "calls": _calls,
    "timed_ns": _natural,
    "cpu_while_frozen_ns": dict.fromkeys(SIDES, _natural),
    "load_ns": dict.fromkeys(SIDES, _natural),
    "peak_memory_bytes": dict.fromkeys(SIDES, _natural),
}


def _pairs(pairs: list[Any], cases: set[str]) -> None:
    previous = -1
    for number, pair in enumerate(pairs):
        where = f"document.pairs[{number}]"
        _fields(pair, _PAIR, where, is_open=True)
        if pair["case"] not in cases:
            raise EvidenceError(f"{where}.case is not one of the suite's")
        if not _naturals(pair.get("shape", {})):
            raise EvidenceError(f"{where}.shape is not what it must be")
        if pair["index"] < previous:
            raise EvidenceError(f"{where}.index is out of order")
        previous = pair["index"]


MOST_BASE_CHECKS = 2
_FAILURE: dict[str, Any] = {
    "kind": lambda value: isinstance(value, str) and value in EVENT_KINDS,
    "stage": _name,
    "detail": _text,
}


def _base_checks(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_BASE_CHECKS


def _base_check(attempt: Any, cases: dict[str, int], where: str) -> None:
    """One attempt at base alone: the pair's record, or None for a build, and what failed, or None. `cases` are complete calls."""
    _fields(attempt, {"pair": lambda _: True, "failure": lambda _: True}, where)
    pair, failure = attempt["pair"], attempt["failure"]
    if failure is not None:
        _fields(failure, _FAILURE, f"{where}.failure")
    if pair is None:
        return
    _fields(pair, {**_PAIR, **_PAIR_3}, f"{where}.pair", is_open=True)
    if pair["case"] not in cases or not _naturals(pair.get("shape", {})):
        raise EvidenceError(f"{where}.pair is not one of the suite's")
    if not pair["control"]:
        raise EvidenceError(f"{where}.pair is not of base alone")
    if failure is None and len(pair["calls"]) != cases[pair["case"]]:
        raise EvidenceError(f"{where} did not fail, and its pair is not complete")


_COUNTED_BY: dict[str, Any] = {
    "cpu": lambda value: isinstance(value, str) and value in (*CGROUPS, "clocks-and-rusage"),
    "memory": lambda value: (
        isinstance(value, str) and value in (*CGROUPS, "cgroup-v2-readings", "polls-and-high-water-marks")
    ),
}

_DOCUMENT: dict[str, Any] = {
    "schema": lambda value: value == SCHEMA_2,
    "run": {"id": _name, "kind": lambda value: isinstance(value, str) and value in RUN_KINDS, "nonce": _name},
    "suite": _Open(
        name=_name,
        unit=_name,
        cases=_cases,
        policy=_Open(
            minimum_effect_log_ppm=lambda value: _positive(value) and value <= MOST_LOG_PPM,
            cap_log_ppm=lambda value: _positive(value) and value <= MOST_LOG_PPM,
            worst_case_log_ppm=lambda value: _integer(value) and -MOST_LOG_PPM <= value <= 0,
        ),
    ),
    "plan": {
        "looks": _looks,
        "may_extend": _flag,
        "alpha_ppm": lambda value: _positive(value) and value <= MOST_ALPHA_PPM,
        "confirmation_pairs": lambda value: _integer(value) and value >= LEAST_PAIRS,
    },
    "trees": {"base": _sha256, "candidate": _sha256},
    "harness": {"hash": _sha256, "version": _name},
    "policy_hash": _sha256,
    "environment": lambda value: isinstance(value, dict),
    "sandbox": _Open(level=_name, award_eligible=_flag),
    "commitment": _sha256,
    "secrets": _hex_bytes,
    "pairs": lambda value: isinstance(value, list),
    "checks": {
        "outputs_checked": _natural,
        "oracle_checked": _natural,
        "outputs_differing": _natural,
        "failures": lambda value: isinstance(value, list),
    },
    "phases_ns": _naturals,
    "events": _events,
    "trials": _trials,
    "verdict": {
        "kind": lambda value: isinstance(value, str) and value in set(VerdictKind),
        "reason": lambda value: isinstance(value, str) and bool(value),
        "log_ppm_estimate": _optional_integer,
        "log_ppm_bound": _optional_integer,
        "pairs": _natural,
    },
    "started_at": _timestamp,
    "finished_at": _timestamp,
}

_VERSIONED = {"version": _name, "digest": _digest_or_none}
_OLD: dict[str, Any] = {
    "tree": _sha256,
    "paid_log_ppm": lambda value: _positive(value) and value <= MOST_LOG_PPM,
}
_SLOTS: dict[str, Any] = {
    "tree": lambda value: value in ("base", "old"),
    "room_ppm": _positive,
    "call_ns": _naturals,
    "first_ns": _naturals,
}
_EARLIER: dict[str, Any] = {
    "count": _positive,
    "lowest_log_ppm": lambda value: value is None or (_positive(value) and value <= MOST_LOG_PPM),
}
_PAIR_3: dict[str, Any] = {
    "tree": _is_kind_of_pair,
    "next_to": lambda value: value is None or _natural(value),
}
_SEALED: dict[str, Any] = {
    "document": lambda value: isinstance(value, dict),
    "digest": _digest,
    "signature": {"algorithm": _name, "key_id": _name, "public_key": _name, "value": _name},
}
_RECORD: dict[str, Any] = {
    "schema": lambda value: value == PAIR_SCHEMA,
    "run": _DOCUMENT["run"],
    "suite": {"name": _name, "preset": _name},
    "trees": _DOCUMENT["trees"],
    "harness_hash": _sha256,
    "calls": _positive,
    "checks": {"outputs_checked": _natural, "oracle_checked": _natural},
    "pair": lambda value: isinstance(value, dict),
}
_DOCUMENT_3: dict[str, Any] = {
    **_DOCUMENT,
    "schema": lambda value: value == SCHEMA,
    "base_checks": _base_checks,
    "continues": _records,
    "old": lambda value: value is None or isinstance(value, dict),
    "earlier_confirmations": lambda value: value is None or isinstance(value, dict),
    "events": lambda value: _events(value, _is_tree),
    "environment": _Open(
        packages=_Open(torch=_VERSIONED, numpy=_VERSIONED, cryptography=_VERSIONED),
        compiler=_VERSIONED,
    ),
}
