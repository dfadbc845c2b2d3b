"""Documents of canaries as a host sends them, with samples from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from benchmarks.canary.document import build_document
from benchmarks.canary.order import LOOKS, ROUNDS, CanaryOrder, Plan, Shape
from benchmarks.evidence.signing import generate_key

SERVED, CANDIDATE, BEST = "1" * 64, "2" * 64, "3" * 64
NONCE = "a" * 64
KEY = generate_key()
PREFILL_NS, TOKEN_NS, OUTPUT = 400_000_000, 30_000_000, 24
SHORT, LONG = 100, 300  # tokens of prompts, by turns; reading one takes PREFILL_NS for 200
SIDES = ("candidate", "partner")

#: (line, batch) -> how many times the partner's figure the candidate takes.
Factor = Callable[[str, int], float]


def order(*, best: str = SERVED, pairs: int = 30, margin: int | None = None, **more: Any) -> CanaryOrder:
    plan = Plan((Shape(200, OUTPUT),), (1, 4, 7), pairs, margin)
    return CanaryOrder(
        **{
            "id": UUID(int=7),
            "model": "tiny",
            "served": SERVED,
            "candidate": CANDIDATE,
            "best": best,
            "nonce": NONCE,
            "plan": plan,
            **more,
        }
    )


def equal(line: str, batch: int) -> float:
    return 1.0


def comparison(
    against: str,
    seed: int,
    plan: Plan,
    factor: Factor = equal,
    *,
    noise: float = 0.01,
    again: Factor | None = None,
) -> dict[str, Any]:
    """One comparison; `noise` is the standard deviation of a value's logarithm, `again` is for a second look."""
    rng = random.Random(seed)
    each = -(-plan.pairs // ROUNDS)
    rounds = []
    for number in range((ROUNDS if again is None else LOOKS * ROUNDS) + 1):
        look, place = divmod(number - 1, ROUNDS)
        if look == 1 and again is not None:
            factor = again
        calls = [call("first"), call("planted"), call("planted")]
        calls += [call("mixed", batch) for batch in (plan.batches if number == 0 else plan.batches[-1:])]
        first = look * plan.pairs
        pairs = range(first + each * place, first + min(plan.pairs, each * (place + 1)))
        for pair in pairs if number else ():
            prompt = LONG if pair % 2 else SHORT
            usual_ns = PREFILL_NS * prompt // 200
            calls.append(timed("prefill", 1, pair, usual_ns, 1, factor, rng, noise, prompt_tokens=prompt))
            for batch in plan.batches:
                calls.append(
                    timed("decode", batch, pair, TOKEN_NS * OUTPUT * batch, OUTPUT, factor, rng, noise)
                )
        calls += [call("repeated"), call("probe")]
        rounds.append(
            {
                "number": number,
                "load_ns": _sides(4_000_000_000, factor("load", 1), rng, noise),
                "peak_memory_bytes": _sides(500 << 20, factor("memory", 1), rng, noise / 10),
                "cpu_while_frozen_ns": dict.fromkeys(SIDES, 0),
                "timed_ns": 1_000_000_000,
                "held_out_tokens": 0 if plan.quality_margin_ppm is None else 48,
                "loss_micro_nats": _loss(plan, factor),
                "calls": calls,
            }
        )
    return {"against": against, "rounds": rounds}


def _loss(plan: Plan, factor: Factor) -> dict[str, int]:
    if plan.quality_margin_ppm is None:
        return dict.fromkeys(SIDES, 0)
    return {"candidate": int(144_000_000 * factor("loss", 1)), "partner": 144_000_000}


def call(case: str, batch: int = 1, **more: Any) -> dict[str, Any]:
    answers = [f"{one:064x}" for one in range(batch)]
    is_first = case == "first"
    return {
        "case": case,
        "batch": batch,
        "pair": None,
        "prompt_tokens": None,
        "output_tokens": None,
        "order": list(SIDES),
        "ns": None if is_first else dict.fromkeys(SIDES, 500_000_000 * batch),
        "clocked_ms": None if is_first else dict.fromkeys(SIDES, 500 * batch),
        "counted_ms": dict.fromkeys(SIDES, 495 * batch),
        "answers": {side: list(answers) for side in SIDES},
        **more,
    }


def timed(
    case: str,
    batch: int,
    pair: int,
    usual_ns: int,
    output: int,
    factor: Factor,
    rng: random.Random,
    noise: float,
    **more: Any,
) -> dict[str, Any]:
    ns = _sides(usual_ns, factor(case, batch), rng, noise)
    clocked = {side: ns[side] * batch // 1_000_000 for side in SIDES}
    counted = {side: clocked[side] * 98 // 100 for side in SIDES}
    times = {"ns": ns, "clocked_ms": clocked, "counted_ms": counted}
    return call(case, batch, pair=pair, output_tokens=output, **times, **more)


def _sides(usual: int, factor: float, rng: random.Random, noise: float) -> dict[str, int]:
    return {
        "candidate": int(usual * factor * rng.lognormvariate(0, noise)),
        "partner": int(usual * rng.lognormvariate(0, noise)),
    }


def document(
    asked: CanaryOrder | None = None,
    comparisons: list[dict[str, Any]] | None = None,
    *,
    events: list[dict[str, str]] | None = None,
    factor: Factor = equal,
    seed: int = 1,
) -> dict[str, Any]:
    """A document with its verdict."""
    asked = asked or order()
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return build_document(
        asked,
        hashes={"served": SERVED, "candidate": CANDIDATE, "best": asked.best or BEST},
        environment={"cpu": "one"},
        sandbox={"level": "bubblewrap", "counted_by": {"cpu": "cgroup-v1", "memory": "cgroup-v1"}, "core": 1},
        device="cpu",
        memory_bytes=1 << 30,
        arguments=[],
        secret="c" * 64,
        comparisons=comparisons or [comparison("served", seed, asked.plan, factor)],
        planted=12,
        events=events or [],
        started_at=when,
        finished_at=when,
    )
