"""Evidence for tests, properly sealed and signed, but over invented samples."""

import math
import random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.catalogue import SUITES
from benchmarks.evidence.commitment import commit
from benchmarks.evidence.decision import make_plan
from benchmarks.evidence.document import build_document, seal
from benchmarks.patch.policy import HARNESS_VERSION, harness_hash, load_policy
from benchmarks.runner.toolchain import compiler, packages
from benchmarks.sandbox.accounting.groups import COUNTED_BY

CALLS_PER_SIDE = 4
BASE_NS = 20_000_000
GUARD_MARGIN_LOG_PPM = 30_000
SECRET = bytes(range(32))


def invented_pairs(
    speed_up_log: float, *, units: int = 48, every: int = 2, seed: int = 1, noise_log: float = 0.004
) -> list[dict[str, Any]]:
    """`units` measured pairs whose candidate is faster by about `speed_up_log` nats, and a control after every second."""
    noise = random.Random(seed)
    pairs: list[dict[str, Any]] = []
    for number in range(units):
        pairs.append(_pair(len(pairs), speed_up_log + noise.gauss(0, noise_log), noise, is_control=False))
        if number % every == 0:
            pairs.append(_pair(len(pairs), noise.gauss(0, 0.004), noise, is_control=True))
    return pairs


def old_pairs(gain_log: float, *, start: int) -> list[dict[str, Any]]:
    """Pairs of base and a tree before it, over which base is faster by about `gain_log` nats."""
    return _pairs_about_base("old", -gain_log, start=start, seed=2)


def direct_pairs(gain_log: float, *, start: int) -> list[dict[str, Any]]:
    """Pairs of the tree before base and the candidate, which is faster by about `gain_log` nats."""
    return _pairs_about_base("direct", gain_log, start=start, seed=3)


def _pairs_about_base(
    kind: str, log_ratio: float, *, start: int, seed: int, units: int = 16
) -> list[dict[str, Any]]:
    noise = random.Random(seed)
    pairs = [
        _pair(start + number, log_ratio + noise.gauss(0, 0.004), noise, is_control=False)
        for number in range(units)
    ]
    return [{**pair, "tree": kind} for pair in pairs]


def _pair(index: int, log_ratio: float, noise: random.Random, *, is_control: bool) -> dict[str, Any]:
    calls: list[list[Any]] = []
    for _ in range(CALLS_PER_SIDE):
        base = round(BASE_NS * math.exp(noise.gauss(0, 0.003)))
        turn = [["base", base], ["candidate", max(1, round(base / math.exp(log_ratio)))]]
        noise.shuffle(turn)
        calls += turn
    return {
        "index": index,
        "control": is_control,
        "tree": "base" if is_control else "candidate",
        "next_to": index - 1 if is_control else None,
        "case": "small",
        "spawn_order": ["base", "candidate"],
        "calls": calls,
        "timed_ns": sum(ns for _side, ns in calls),
        "cpu_while_frozen_ns": {"base": 0, "candidate": 0},
        "load_ns": {"base": 900_000_000, "candidate": 900_000_000},
        "peak_memory_bytes": {"base": 300_000_000, "candidate": 300_000_000},
    }


def invented_parts(
    *, run: dict[str, Any], level: str = "bubblewrap", reproduction: str = ""
) -> dict[str, Any]:
    """What a document of the ordered run (as the lease names it) says before anything is measured."""
    suite = SUITES[run["suite"]]
    return {
        "run": {"id": run["id"], "kind": run["kind"], "nonce": run["nonce"]},
        "suite": {
            "name": suite.name,
            "preset": run["preset"],
            "unit": suite.unit,
            "cases": [{"name": "small", "calls": CALLS_PER_SIDE, "margin_log_ppm": GUARD_MARGIN_LOG_PPM}],
            "policy": {
                "minimum_effect_log_ppm": suite.minimum_effect_log_ppm,
                "cap_log_ppm": suite.cap_log_ppm,
                "worst_case_log_ppm": suite.worst_case_log_ppm,
                "memory_margin_log_ppm": GUARD_MARGIN_LOG_PPM,  # read in guard runs only, as the case's is
                "load_margin_log_ppm": GUARD_MARGIN_LOG_PPM,
            },
            **({"reproduction": reproduction} if reproduction else {}),
        },
        "plan": make_plan(),
        "trees": {"base": run["base_tree"], "candidate": run["candidate_tree"]},
        "harness": {"hash": harness_hash(), "version": HARNESS_VERSION},
        "policy_hash": load_policy().hash,
        "environment": {"note": "invented for a test", "packages": packages(), "compiler": compiler()},
        "sandbox": {
            "level": level,
            "award_eligible": level in load_policy().award_sandbox_levels,
            "counted_by": dict(COUNTED_BY["cgroup-v1"]),
        },
    }


def invented_document(
    *,
    run: dict[str, Any],
    speed_up_log: float = 0.3,
    secret: bytes = SECRET,
    level: str = "bubblewrap",
    events: list[dict[str, Any]] | None = None,
    base_checks: list[dict[str, Any]] | None = None,
    units: int = 48,
    noise_log: float = 0.004,
    trials: list[dict[str, Any]] | None = None,
    old_gain_log: float | None = None,
    direct_gain_log: float | None = None,
    reproduction: str = "",
    continues: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A document about the ordered run (as the lease names it), with the verdict that its samples give.

    Where it has an old tree, base is faster than that by what was paid, or by `old_gain_log`; next to it the candidate is
    faster by both gains, or by `direct_gain_log`.
    """
    pairs = invented_pairs(speed_up_log, units=units, noise_log=noise_log)
    if run.get("old"):
        kept = run["old"]["paid_log_ppm"] / 1e6 if old_gain_log is None else old_gain_log
        pairs += old_pairs(kept, start=len(pairs))
        shown = kept + speed_up_log if direct_gain_log is None else direct_gain_log
        pairs += direct_pairs(shown, start=len(pairs))
    timed = sum(side == "candidate" for pair in pairs for side, _ns in pair["calls"])
    return build_document(
        **invented_parts(run=run, level=level, reproduction=reproduction),
        trials=trials,
        old=run.get("old"),
        earlier_confirmations=run.get("earlier_confirmations"),
        continues=continues,
        commitment=commit(secret, run["nonce"]),
        secrets=secret.hex(),
        pairs=pairs,
        checks={"outputs_checked": timed, "oracle_checked": units, "outputs_differing": 0, "failures": []},
        phases_ns={"measuring": 1},
        events=events or [],
        base_checks=base_checks,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:01:00+00:00",
    )


def invented_evidence(*, key: Ed25519PrivateKey, run: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The document of `invented_document`, sealed with `key`."""
    return seal(invented_document(run=run, **how), key)
