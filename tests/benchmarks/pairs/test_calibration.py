"""How many calls a pair gets on this machine."""

import json
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.pairs.calibration import TIMED_NS, calls_for
from benchmarks.suites import get_suite


@pytest.mark.parametrize(
    ("call_ns", "calls"),
    [(1, 60), (TIMED_NS // 80, 40), (TIMED_NS // 40, 20), (TIMED_NS, 20)],
)
def test_calls_take_about_as_long_as_a_pair_takes_to_start(call_ns: int, calls: int) -> None:
    assert calls_for(call_ns, 20, 60) == calls


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.measures
def test_the_number_of_calls_is_in_the_evidence(open_folder: Path) -> None:
    out = open_folder / "evidence.json"
    arguments = ["--kind", "aa", "--preset", "demo", "--looks", "1", "--out", str(out), "--json"]
    assert bench.main(arguments) == 0
    document = json.loads(out.read_text())["document"]
    suite = get_suite("moe_forward", "demo")
    (case,) = document["suite"]["cases"]
    assert suite.calls_per_side <= case["calls"] <= suite.most_calls
    assert document["verdict"]["kind"] != "infrastructure_error", document["verdict"]["reason"]
    assert all(len(pair["calls"]) == 2 * case["calls"] for pair in document["pairs"])
