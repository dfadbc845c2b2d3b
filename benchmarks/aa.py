"""`python -m benchmarks.aa`: base against itself. How noisy is a pair on this machine?

Every figure comes from the platform's own judge with the shipped stack on both sides, measured now, on this machine.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import math
import statistics
import sys
from typing import Any

from benchmarks.bench import measure
from benchmarks.commands import command_line, ends_plainly
from benchmarks.evidence.samples import Samples, read_samples, turns
from benchmarks.evidence.verify import verify_evidence
from benchmarks.report import Report, Row
from benchmarks.sandbox import SandboxError
from benchmarks.statistics.confirm import LEAST_PAIRS
from benchmarks.statistics.diagnostics import PairOrder, diagnose
from benchmarks.statistics.units import nats
from model.command_errors import CommandParser

NOISE_TARGET_PERCENT = 2.0
TRANSPORT_TARGET_PERCENT = 5.0


def control_rows(sealed: dict[str, Any]) -> list[Row]:
    """Report the machine's noise from the evidence of base against itself."""
    document = sealed["document"]
    samples = read_samples(document)
    ratios = [nats(value) for values in samples.by_case.values() for value in values]
    found = diagnose(ratios, [nats(value) for value in samples.controls], pair_orders(samples))
    noise, middle = found.noise / 10_000, 100 * statistics.median(ratios)
    share, seconds = transport_percent(document), sum(document["phases_ns"].values()) / 1e9
    base_ms = statistics.median(_base_ns(document)) / 1e6
    name = f"{document['suite']['name']}/{document['suite']['preset']}"
    frozen = max(max(pair["cpu_while_frozen_ns"].values()) for pair in document["pairs"])
    return [
        Row(
            "noise per pair",
            round(noise, 2),
            "%",
            f"<= {NOISE_TARGET_PERCENT:.0f} %",
            noise <= NOISE_TARGET_PERCENT,
            f"standard deviation of ln(base/base), {found.pairs} pairs of {name}, {document['sandbox']['level']}",
        ),
        Row("median of the pairs", round(middle, 2), "%", None, None, "zero, apart from noise"),
        Row("remarks", len(found.words), "", None, None, " ".join(found.words) or "nothing unusual"),
        Row("one call of base", round(base_ms, 2), "ms", None, None, "median"),
        Row(
            "transport, share of a call",
            round(share, 2),
            "%",
            f"<= {TRANSPORT_TARGET_PERCENT:.0f} %",
            share <= TRANSPORT_TARGET_PERCENT,
            "the same bytes there and back without a call",
        ),
        Row("CPU time while frozen", frozen, "ns", None, None, "most of any side in any pair"),
        Row(
            "time per pair",
            round(seconds / len(document["pairs"]), 2),
            "s",
            None,
            None,
            ", ".join(f"{phase} {ns / 1e9:.1f} s" for phase, ns in document["phases_ns"].items()),
        ),
        Row(
            "verdict of base against itself",
            document["verdict"]["kind"],
            "",
            "not gain",
            document["verdict"]["kind"] != "gain",
            document["verdict"]["reason"],
        ),
        Row(
            "evidence verifies", verify_evidence(sealed).ok, "", "yes", verify_evidence(sealed).ok, "offline"
        ),
    ]


def pair_orders(samples: Samples) -> list[PairOrder]:
    """List the orders in which the pairs were run, in the order of the log ratios: case by case."""
    return [_order(pair) for case in samples.by_case for pair in samples.complete if pair["case"] == case]


def _order(pair: dict[str, Any]) -> PairOrder:
    by_turn = [math.log(base / candidate) for base, candidate in turns(pair["calls"])]
    first = by_turn[0] - statistics.median(by_turn[1:]) if len(by_turn) > 1 else None
    return PairOrder(pair["spawn_order"][0] == "base", first)


def transport_percent(document: dict[str, Any]) -> float:
    """The median pair's share of transport in base's time, in per cent."""
    shares = [
        100 * pair["transport_ns"] / statistics.median(ns for side, ns in pair["calls"] if side == "base")
        for pair in document["pairs"]
        if pair["calls"]
    ]
    return float(statistics.median(shares))


def _base_ns(document: dict[str, Any]) -> list[int]:
    return [ns for pair in document["pairs"] for side, ns in pair["calls"] if side == "base"]


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 when it was measured, 2 when this machine does not allow it."""
    parser = CommandParser(prog="python -m benchmarks.aa", description=__doc__)
    parser.add_argument("--suite", default="moe_forward")
    parser.add_argument("--preset", default="demo")
    parser.add_argument(
        "--base", default="shipped", help="folder or diff of the tree that is measured against itself"
    )
    parser.add_argument("--pairs", type=int, default=LEAST_PAIRS, help=f"at least {LEAST_PAIRS}")
    parser.add_argument("--quick", action="store_true", help="6 pairs only")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    chosen = parser.parse_args(arguments)
    if chosen.pairs < LEAST_PAIRS:
        parser.error(f"--pairs {chosen.pairs}: at least {LEAST_PAIRS}, or --quick for 6")
    plan = {"looks": 1} if chosen.quick else {"confirmation_pairs": chosen.pairs}
    try:
        sealed = measure(
            kind="aa" if chosen.quick else "confirmation",
            suite=chosen.suite,
            preset=chosen.preset,
            base=chosen.base,
            **plan,
        )
    except (ValueError, SandboxError, OSError) as error:
        print(f"aa: {error}", file=sys.stderr)
        return 2
    Report.here(command_line(parser.prog, arguments), control_rows(sealed)).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
