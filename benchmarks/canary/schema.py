"""The shape of a canary's document, checked strictly before anything is concluded from it: a host may send anything.

docs/reference/canary.md describes the same in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from benchmarks.canary.order import DECODE, LOOKS, PREFILL, ROUNDS
from benchmarks.evidence.schema import EvidenceError
from benchmarks.sandbox.levels import SandboxLevel

SCHEMA = "gainshare.canary/2"
SCHEMA_1 = "gainshare.canary/1"  # without the lengths of prompts and the times to read them
SCHEMAS = (SCHEMA, SCHEMA_1)
MOST_BYTES = 8 << 20  # of a sealed document as it is sent
MOST_NS = 10**15  # eleven days
MOST_MEMORY = 1 << 50
MOST_BATCH, MOST_BATCHES, MOST_SHAPES, MOST_PAIRS = 256, 8, 256, 200
MOST_ROUNDS, MOST_CALLS = LOOKS * ROUNDS + 1, 4_000
MOST_TOKENS = 1 << 24
MOST_TEXT = 2_000
SIDES = ("candidate", "partner")
AGAINST = ("served", "best")
CASES = ("first", "planted", "mixed", "held_out", "repeated", "probe", PREFILL, DECODE)
KINDS = ("leak", "crash", "timeout", "malformed", "too_large", "resource_limit", "unsteerable")
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Rule = Callable[[Any], bool]


def validate(document: Any, *, has_verdict: bool = True) -> None:
    """Raise EvidenceError unless `document` has exactly the declared shape."""
    is_first = isinstance(document, dict) and document.get("schema") == SCHEMA_1
    rules = dict(_DOCUMENT_1 if is_first else _DOCUMENT)
    if not has_verdict:
        del rules["verdict"]
    _fields(document, rules, "document")
    plan = document["order"]["plan"]
    for name, comparison in zip(AGAINST, document["comparisons"], strict=False):
        if comparison["against"] != name:
            raise EvidenceError("document.comparisons are against the served tree, then against the best one")
        for number, one in enumerate(comparison["rounds"]):
            where = f"document.comparisons of {name}, round {number}"
            if one["number"] != number:
                raise EvidenceError(f"{where} is numbered {one['number']}")
            for call in one["calls"]:
                _call(call, plan, number, where)
        _pairs_once(comparison, name)
    if _time(document["finished_at"]) < _time(document["started_at"]):
        raise EvidenceError("document.finished_at is before started_at")


def validate_order(order: Any) -> None:
    """Raise EvidenceError for an order whose document could not be valid."""
    _fields(order, _ORDER, "order")


def _call(call: dict[str, Any], plan: dict[str, Any], number: int, where: str) -> None:
    """What rules of one field alone cannot say."""
    is_timed = call["case"] in (PREFILL, DECODE)
    if sorted(call["order"]) != sorted(SIDES):
        raise EvidenceError(f"{where} has a call whose order does not name both sides once")
    if any(len(call["answers"][side]) != call["batch"] for side in SIDES):
        raise EvidenceError(f"{where} has a call with another number of answers than requests")
    if is_timed != (call["pair"] is not None) or is_timed != (call["output_tokens"] is not None):
        raise EvidenceError(f"{where} has a call whose pair or output_tokens does not fit its case")
    if is_timed and call["pair"] // plan["pairs"] != (number - 1) // ROUNDS:
        raise EvidenceError(f"{where} has a call of pair {call['pair']}, which the plan does not have there")
    if (call["case"] == PREFILL) != (call.get("prompt_tokens") is not None) and "prompt_tokens" in call:
        raise EvidenceError(f"{where} has a call whose prompt_tokens does not fit its case")
    if (call["case"] != "first") != (call["ns"] is not None) or (call["ns"] is None) != (
        call["clocked_ms"] is None
    ):
        raise EvidenceError(f"{where} has a call whose times do not fit its case")
    if call["case"] == DECODE and call["batch"] not in plan["batches"]:
        raise EvidenceError(f"{where} has a batch that the plan does not have")
    if call["case"] == PREFILL and call["batch"] != 1:
        raise EvidenceError(f"{where} has a prefill of several requests")


def _pairs_once(comparison: dict[str, Any], name: str) -> None:
    """No call of a pair is there twice, and clocked calls belong to clocked rounds."""
    seen = set()
    for one in comparison["rounds"]:
        for call in one["calls"]:
            if call["pair"] is None:
                continue
            key = call["pair"], call["case"], call["batch"]
            if key in seen or one["number"] == 0:
                raise EvidenceError(
                    f"document.comparisons of {name} has a call of a pair twice, or in round 0"
                )
            seen.add(key)


def _fields(value: Any, rules: dict[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise EvidenceError(f"{where} is not an object")
    if value.keys() != rules.keys():
        odd = sorted(map(repr, value.keys() ^ rules.keys()))[0]
        raise EvidenceError(f"{where} lacks or should not have the key {odd[:60]}")
    for key, rule in rules.items():
        if isinstance(rule, dict):
            _fields(value[key], rule, f"{where}.{key}")
        elif isinstance(rule, _List):
            rule.check(value[key], f"{where}.{key}")
        elif not rule(value[key]):
            raise EvidenceError(f"{where}.{key} is not what it must be")


class _List:
    """A list of `least` to `most` objects of one shape."""

    def __init__(self, rules: dict[str, Any], most: int, least: int = 0) -> None:
        self._rules, self._most, self._least = rules, most, least

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, list) or not self._least <= len(value) <= self._most:
            raise EvidenceError(f"{where} is not a list of {self._least} to {self._most}")
        for number, one in enumerate(value):
            _fields(one, self._rules, f"{where}[{number}]")


def _integer(least: int, most: int) -> Rule:
    return lambda value: type(value) is int and least <= value <= most


def _text(most: int = MOST_TEXT) -> Rule:
    return lambda value: isinstance(value, str) and len(value) <= most


def _one_of(*known: str) -> Rule:
    return lambda value: isinstance(value, str) and value in known


def _optional(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _hex(value: Any) -> bool:
    return isinstance(value, str) and _HEX_64.fullmatch(value) is not None


def _tree(value: Any) -> bool:
    return value == "" or _hex(value)


def _uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _sides(rule: Rule) -> Rule:
    return lambda value: (
        isinstance(value, dict) and value.keys() == set(SIDES) and all(map(rule, value.values()))
    )


def _list_of(rule: Rule, most: int, least: int = 0) -> Rule:
    return lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(rule, value))


def _different(rule: Rule) -> Rule:
    return lambda value: rule(value) and len(set(value)) == len(value)


def _open_object(value: Any) -> bool:
    """Facts about a machine, for people: bounded by the size of the whole document."""
    return isinstance(value, dict) and len(value) <= 100


def _time(value: Any) -> datetime:
    return datetime.fromisoformat(value)


def _timestamp(value: Any) -> bool:
    try:
        return isinstance(value, str) and _time(value).tzinfo is not None
    except ValueError:
        return False


_NS = _integer(0, MOST_NS)
_POSITIVE_NS = _integer(1, MOST_NS)
_LOG = _integer(-40_000_000, 40_000_000)
_LINE = {"bound_log_ppm": _LOG, "estimate_log_ppm": _LOG, "pairs": _integer(1, LOOKS * MOST_PAIRS)}


def _lines(value: Any) -> bool:
    names = ("prefill", "decode", "memory", "load")
    if not isinstance(value, dict) or (value and value.keys() != set(names)):
        return False
    return all(
        isinstance(line, dict) and line.keys() == _LINE.keys() and all(_LINE[key](line[key]) for key in line)
        for line in value.values()
    )


_CALL_1 = {
    "case": _one_of(*CASES),
    "batch": _integer(1, MOST_BATCH),
    "pair": _optional(_integer(0, LOOKS * MOST_PAIRS - 1)),
    "output_tokens": _optional(_integer(1, MOST_TOKENS)),
    "order": _list_of(_one_of(*SIDES), 2, 2),
    "ns": _optional(_sides(_POSITIVE_NS)),
    "clocked_ms": _optional(_sides(_NS)),
    "counted_ms": _sides(_integer(0, 1 << 60)),
    "answers": _sides(_list_of(_hex, MOST_BATCH, 1)),
}
_CALL = {**_CALL_1, "prompt_tokens": _optional(_integer(1, MOST_TOKENS))}
_ROUND_1 = {
    "number": _integer(0, MOST_ROUNDS),
    "load_ns": _sides(_NS),
    "peak_memory_bytes": _sides(_integer(0, MOST_MEMORY)),
    "cpu_while_frozen_ns": _sides(_NS),
    "timed_ns": _NS,
    "held_out_tokens": _integer(0, MOST_CALLS),
    "loss_micro_nats": _sides(_NS),
    "calls": _List(_CALL_1, MOST_CALLS),
}
_ROUND = {**_ROUND_1, "calls": _List(_CALL, MOST_CALLS)}
_ORDER = {
    "id": _uuid,
    "model": _text(200),
    "served": _tree,
    "candidate": _tree,
    "best": _tree,
    "nonce": _hex,
    "plan": {
        "shapes": _List(
            {"prompt_tokens": _integer(1, MOST_TOKENS), "output_tokens": _integer(1, MOST_TOKENS)},
            MOST_SHAPES,
            1,
        ),
        "batches": _different(_list_of(_integer(1, MOST_BATCH), MOST_BATCHES, 1)),
        "pairs": _integer(1, MOST_PAIRS),
        "quality_margin_ppm": _optional(_integer(0, 1_000_000)),
    },
}
_SIDES_NS = {"candidate_ns": _integer(0, MOST_NS), "served_ns": _integer(0, MOST_NS)}
_VERDICT_1: dict[str, Any] = {
    "passed": lambda value: type(value) is bool,
    "why": _text(4_000),
    "served": _lines,
    "best": _lines,
    "batch_times": _List({"batch": _integer(1, MOST_BATCH), **_SIDES_NS}, MOST_BATCHES),
}


def _comparisons(rules: dict[str, Any]) -> _List:
    return _List({"against": _one_of(*AGAINST), "rounds": _List(rules, MOST_ROUNDS, 1)}, 2)


_DOCUMENT: dict[str, Any] = {
    "schema": _one_of(*SCHEMAS),
    "order": _ORDER,
    "harness": {"hash": _hex},
    "environment": _open_object,
    "sandbox": {
        "level": _one_of(*(level.value for level in SandboxLevel)),
        "counted_by": {"cpu": _text(100), "memory": _text(100)},
        "core": _integer(0, 1 << 16),
    },
    "device": _one_of("cpu", "cuda"),
    "memory_bytes": _integer(1, MOST_MEMORY),
    "arguments": _list_of(_text(1_000), 100),
    "trees": {"served": _hex, "candidate": _hex, "best": _hex},
    "secret": _hex,
    "comparisons": _comparisons(_ROUND),
    "planted": _integer(0, 1_000),
    "events": _List(
        {
            "against": _one_of(*AGAINST),
            "kind": _one_of(*KINDS),
            "stage": _text(100),
            "detail": _text(),
        },
        2,
    ),
    "started_at": _timestamp,
    "finished_at": _timestamp,
    "verdict": {
        **_VERDICT_1,
        "prefill_times": _List({"prompt_tokens": _integer(1, MOST_TOKENS), **_SIDES_NS}, 2),
    },
}
_DOCUMENT_1 = {**_DOCUMENT, "comparisons": _comparisons(_ROUND_1), "verdict": _VERDICT_1}
