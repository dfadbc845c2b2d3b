"""Makes evidence documents with a known true effect, as the judge would write them."""

import copy
import math
import random
from typing import Any

from benchmarks.evidence.commitment import commit
from benchmarks.evidence.decision import make_plan
from benchmarks.evidence.document import build_document
from benchmarks.evidence.schema import SCHEMA
from benchmarks.patch.policy import harness_hash, load_policy
from benchmarks.runner.toolchain import compiler, packages
from benchmarks.sandbox.accounting.groups import COUNTED_BY

CALLS = 5
SECRET = bytes(range(32))


def make_pairs(
    effect: float,
    count: int,
    *,
    cases: tuple[str, ...] = ("only",),
    effects: dict[str, float] | None = None,
    sd: float = 0.005,
    slowdown: float = 1.0,
    controls: bool = True,
    every: int = 2,
    seat: float = 1.0,
    spread: float = 0.0,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """`count` pairs of each case; base takes `effect` times candidate's time, and `slowdown` times its own next to it.

    Every so many pairs has a control pair before it. Base takes `seat` times its own time in base's place, and scatters by
    `spread` from pair to pair.
    """
    rng = random.Random(seed)
    pairs: list[dict[str, Any]] = []
    for number in range(count):
        for case in cases:
            for control in [True, False] if controls and number % every == 0 else [False]:
                factor = 1.0 if control else (effects or {}).get(case, effect)
                bias = rng.gauss(0, sd)
                pace = math.exp(rng.gauss(0, spread)) if spread else 1.0
                calls = []
                for _ in range(CALLS):
                    own = 20e6 * pace * (1.0 if control else slowdown)
                    turn = [
                        ["base", round(own * seat * math.exp(rng.gauss(0, 0.002)))],
                        ["candidate", round(own / factor * math.exp(rng.gauss(0, 0.002) + bias))],
                    ]
                    rng.shuffle(turn)
                    calls += turn
                pairs.append(
                    {
                        "index": len(pairs),
                        "control": control,
                        "tree": "base" if control else "candidate",
                        "next_to": len(pairs) + 1 if control else None,
                        "case": case,
                        "shape": {"tokens": 256},
                        "spawn_order": rng.sample(["base", "candidate"], 2),
                        "calls": calls,
                        "timed_ns": sum(ns for _side, ns in calls),
                        "cpu_while_frozen_ns": {"base": 0, "candidate": 0},
                        "load_ns": {"base": 900_000_000, "candidate": 900_000_000},
                        "peak_memory_bytes": {"base": 300_000_000, "candidate": 300_000_000},
                    }
                )
    return pairs


def renumbered(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pairs with new numbers, in this order; each control pair stays beside the pair after it."""
    return [
        {**pair, "index": number, "next_to": number + 1 if pair["control"] else None}
        for number, pair in enumerate(pairs)
    ]


def make_parts(pairs: list[dict[str, Any]], kind: str = "gate", **changed: Any) -> dict[str, Any]:
    """All that `build_document` takes."""
    parts: dict[str, Any] = {
        "run": {"id": "run-1", "kind": kind, "nonce": "nonce-1"},
        "suite": {
            "name": "moe_forward",
            "preset": "demo",
            "unit": "ns per call",
            "cases": [
                {"name": case, "calls": CALLS}
                for case in sorted({pair["case"] for pair in pairs} or {"only"})
            ],
            "policy": {
                "minimum_effect_log_ppm": 9_951,
                "cap_log_ppm": 3_688_880,
                "worst_case_log_ppm": -51_293,
            },
        },
        "plan": make_plan(),
        "trees": {"base": "0" * 64, "candidate": "1" * 64},
        "harness": {"hash": harness_hash(), "version": "1"},
        "policy_hash": load_policy().hash,
        "environment": {"cpu": "test", "packages": packages(), "compiler": compiler()},
        "sandbox": {
            "level": "bubblewrap",
            "award_eligible": True,
            "counted_by": dict(COUNTED_BY["cgroup-v1"]),
        },
        "commitment": commit(SECRET, "nonce-1"),
        "secrets": SECRET.hex(),
        "pairs": pairs,
        "checks": {"outputs_checked": 10_000, "oracle_checked": 3, "outputs_differing": 0, "failures": []},
        "phases_ns": {"measuring": 1},
        "events": [],
        "trials": [],
        "base_checks": [],
        "continues": [],
        "old": None,
        "started_at": "2025-01-01T00:00:00+00:00",
        "finished_at": "2025-01-01T00:01:00+00:00",
    }
    return {**parts, **copy.deepcopy(changed)}


def make_document(pairs: list[dict[str, Any]], kind: str = "gate", **changed: Any) -> dict[str, Any]:
    """A document with its verdict."""
    return build_document(**make_parts(pairs, kind, **changed))


def guard_parts(pairs: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """All that `build_document` takes for a guard run over the cases that `pairs` have."""
    parts = make_parts(pairs, "guard", **changed)
    for case in parts["suite"]["cases"]:
        case.update(margin_log_ppm=29_558, only_if_numerics_changed=case["name"].startswith("quality/"))
    parts["suite"]["policy"].update(memory_margin_log_ppm=19_802, load_margin_log_ppm=95_310)
    return parts


def undecided(pairs: list[dict[str, Any]], kind: str = "gate", **changed: Any) -> dict[str, Any]:
    """A document without a verdict."""
    return {"schema": SCHEMA, **make_parts(pairs, kind, **changed)}
