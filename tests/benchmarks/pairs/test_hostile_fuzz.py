"""Random and structured frames, deaths, signals and bytes: the candidate is blamed or measured, and nothing else happens.

Real pairs, sides and channels. Most samples are plain processes, because a sandbox takes longer to start than all else.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.evidence.canonical import canonical_bytes
from benchmarks.evidence.schema import EVENT_KINDS
from benchmarks.pairs.wire.protocol import MAX_HEADER_BYTES, Kind
from tests.benchmarks.pairs.hostile_suite import LARGE, SMALL, hostile_suite, run_pairs, script_trees
from tests.benchmarks.pairs.plain_processes import plain_samples
from tests.benchmarks.pairs.test_hostile_sides import assert_clean

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

CORPUS = Path(__file__).with_name("hostile_corpus.jsonl")
CASES, LONG_CASES, SANDBOXED_CASES = 200, 10_000, 8
MEMORY_GROWTH_MIB = 96  # of the judge's process over all cases: a leak of 10 KiB a case would be found

# -- what a sample may do ---------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-3, 10), st.integers(-(2**63), 2**64 - 1), st.just(2**31), st.just(2**32 - 1))
TEXTS = st.text(max_size=60) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["y", "x", "", "\u202e"]) | VALUES,
        "dtype": st.sampled_from(["float32", "float64", "bfloat16", "object"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=5) | VALUES,
    }
)
HEADERS = st.one_of(
    st.builds(
        lambda tensors, more: json.dumps({"tensors": tensors, **more}),
        st.lists(TENSORS, max_size=3) | VALUES,
        st.dictionaries(st.sampled_from(["sealed", "lent", "config", "error", "stage"]), VALUES, max_size=2),
    ),
    VALUES.map(json.dumps),
    st.text(max_size=80),
    st.integers(1, 6_000).map(lambda depth: '{"error":' + "[" * depth + "]" * depth + "}"),
    st.integers(1, 6_000).map(lambda digits: '{"tensors":[{"shape":[' + "9" * digits + "]}]}"),
    st.just(" " * (MAX_HEADER_BYTES + 1)),
)
FRAMES = st.builds(
    lambda kind, sequence, header, size: ["frame", kind, sequence, header, size],
    st.sampled_from(list(map(int, Kind))) | st.integers(0, 255),
    st.integers(0, 8) | NUMBERS,
    HEADERS,
    st.integers(0, 64) | NUMBERS,
)
SIGNALS = [number for number in signal.Signals if number not in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)]  # fmt: skip
STEPS = st.one_of(
    FRAMES,
    FRAMES,
    st.binary(max_size=200).map(lambda data: ["write", data.hex()]),
    st.binary(max_size=60).map(lambda data: ["write", (b"GSF1" + data).hex()]),
    st.sampled_from(SIGNALS).map(lambda number: ["signal", int(number)]),
    st.integers(0, 255).map(lambda status: ["exit", status]),
    TEXTS.map(lambda text: ["raise", text]),
    st.sampled_from(["SystemExit", "KeyboardInterrupt"]).map(lambda kind: ["exit_by_exception", kind]),
    st.sampled_from(["abort", "segfault", "close_socket", "seal_lent", "map_lent", "truncate_lent", "send_back"]).map(lambda name: [name]),
    st.sampled_from(["incoming", "outgoing"]).map(lambda which: ["close", which]),
    st.binary(max_size=40).map(lambda data: ["log", 50, data.hex()]),
    st.binary(max_size=15).map(lambda name: ["name", name.hex()]),
    st.builds(
        lambda name, dtype, shape, data: ["answer", name, dtype, shape, data.hex()],
        st.sampled_from(["y", "z", ""]),
        st.sampled_from(["float32", "float64", "int8", "none"]),
        st.lists(st.integers(0, 2**40), max_size=4),
        st.binary(max_size=64),
    ),
    st.binary(min_size=4, max_size=4).map(lambda number: ["answer_number", number.hex()]),
    st.integers(1, 5).map(lambda count: ["threads", count]),
    st.integers(1, 3).map(lambda count: ["forks", count]),
)  # fmt: skip
CASE = st.tuples(
    st.lists(STEPS, max_size=2), st.lists(STEPS, min_size=1, max_size=4), st.sampled_from([SMALL, SMALL, LARGE])
)  # fmt: skip


# -- what becomes of it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def assert_blamed_or_measured(place: Path, load: Sequence[Any], call: Sequence[Any], numbers: int) -> None:
    folder = place / "case"
    try:
        trees = script_trees(folder, load=load, call=call)
        folder.chmod(0o755)
        runner, log = run_pairs(trees, hostile_suite(numbers=numbers, call_ms=1_500))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert [event["side"] for event in runner.events] in ([], ["candidate"]), runner.events
    assert len(runner.events) + runner.measured.total() == 1
    for event in runner.events:
        assert event["kind"] in EVENT_KINDS and event["kind"] not in ("infrastructure_error", "cancelled")
        assert event["stage"] in ("load", "call")
        assert "could not go on" not in event["detail"]
        assert_clean(event["detail"])
    assert_clean(log)
    canonical_bytes([runner.pairs, runner.events])


def fuzz(place: Path, cases: int) -> float:
    """Run so many cases; by how many MiB the judge's process grew after the first fifty."""
    highest: list[int] = []

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(CASE)
    def run(case: tuple[list[Any], list[Any], int]) -> None:
        assert_blamed_or_measured(place, *case)
        highest.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    with plain_samples(place / f"harness-{cases}"):
        run()
    settled = highest[min(50, len(highest) - 1)]
    return (highest[-1] - settled) / 1024


@pytest.mark.timeout(900)
def test_a_fuzzed_candidate_is_blamed_or_measured(place: Path) -> None:
    assert fuzz(place, CASES) < MEMORY_GROWTH_MIB


@pytest.mark.long
@pytest.mark.timeout(21_600)
def test_ten_thousand_fuzzed_candidates_are_blamed_or_measured(place: Path) -> None:
    assert fuzz(place, LONG_CASES) < MEMORY_GROWTH_MIB


def test_the_corpus_is_blamed_or_measured(place: Path) -> None:
    """Cases that once raised in the judge, or are like them."""
    with plain_samples(place / "harness-corpus"):
        for line in CORPUS.read_text().splitlines():
            case = json.loads(line)
            assert_blamed_or_measured(place, case["load"], case["call"], case["numbers"])


@settings(
    max_examples=SANDBOXED_CASES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(case=CASE)
def test_a_fuzzed_candidate_in_its_sandbox_is_blamed_or_measured(
    place: Path, case: tuple[list[Any], list[Any], int]
) -> None:  # fmt: skip
    assert_blamed_or_measured(place, *case)
