"""Whatever a sample does, the judge has an event on its side: no exception, no failure of the runner.

Real pairs in real sandboxes; base answers rightly, the candidate does what its script says.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from benchmarks.evidence.samples import frozen_cpu_limit_ns, thawed_side
from benchmarks.evidence.schema import EVENT_KINDS
from benchmarks.sandbox.accounting import placement
from benchmarks.sandbox.accounting.cgroup_paths import Hierarchies
from tests.benchmarks.pairs.hostile_suite import LARGE, hostile_suite, run_pairs, script_trees

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

NESTED = "[" * 500 + "]" * 500
WRONG_NUMBERS = '{"tensors":[{"dtype":"float32","name":"y","shape":' + NESTED + "}]}"

ACTS: list[tuple[str, list[list[object]], tuple[str, ...]]] = [
    ("ends", [["exit", 0]], ("crash",)),
    ("dies", [["signal", 9]], ("crash",)),
    ("aborts", [["abort"]], ("crash",)),
    ("reads nowhere", [["segfault"]], ("crash",)),
    ("raises a surrogate", [["raise", "\ud800 \x00 \u202e"]], ("crash",)),
    ("raises a megabyte", [["raise", "x" * 1_000_000]], ("crash",)),
    ("leaves by an exception", [["exit_by_exception", "SystemExit"]], ("crash",)),
    ("stops itself", [["signal", 19]], ("timeout",)),
    ("sleeps", [["sleep", 60]], ("timeout",)),
    ("writes rubbish", [["write", "00" * 64]], ("protocol_violation",)),
    ("ends within a frame", [["write", "4753"], ["exit", 0]], ("crash",)),
    ("ends within a header", [["frame", 5, 2, '{"tensors":['], ["exit", 0]], ("protocol_violation", "crash")),
    ("states a huge payload", [["frame", 5, 3, "{}", 2**63]], ("protocol_violation",)),
    ("states a negative payload", [["frame", 5, 3, "{}", -1]], ("protocol_violation",)),
    ("answers an error that nests", [["frame", 7, 2, '{"error":' + NESTED + "}"]], ("protocol_violation",)),
    ("answers in a form that nests", [["frame", 5, 2, WRONG_NUMBERS]], ("protocol_violation", "wrong_output")),
    ("floods the pipe", [["flood", 100]], ("protocol_violation", "timeout")),
    ("closes what it answers on", [["close", "outgoing"]], ("crash",)),
    ("closes what it reads", [["close", "incoming"]], ("crash", "timeout", "protocol_violation")),
    ("logs without end", [["log", 1 << 16, "1b5d303b68690a" * 64], ["exit", 1]], ("crash",)),
    ("takes all memory", [["memory", 1024], ["sleep", 60]], ("crash", "resource_limit")),
    ("fills its scratch space", [["scratch", 512]], ("crash", "resource_limit")),
    ("makes threads without end", [["threads", 500]], ("crash", "resource_limit")),
    ("forks without end", [["forks", 500]], ("crash", "resource_limit")),
    ("is named like a line of its status", [["name", b"\x0cVmHWM:\tz".hex()], ["exit", 3]], ("crash",)),
    ("answers too much", [["answer", "y", "float32", [8], "00" * 32]], ("wrong_output",)),
    ("answers another name", [["answer", "z", "float32", [4], "00" * 16]], ("wrong_output",)),
    ("answers no number", [["answer_number", struct.pack("<f", float("nan")).hex()]], ("wrong_output",)),
    ("answers beyond all measure", [["answer_number", struct.pack("<f", 3e38).hex()]], ("wrong_output",)),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "kinds"), [act[1:] for act in ACTS], ids=[act[0] for act in ACTS])
def test_what_a_candidate_does_is_an_event_on_its_side(
    steps: list[list[object]], kinds: tuple[str, ...], tmp_path: Path
) -> None:
    # What ends by itself gets the time that a busy machine takes for it.
    suite = hostile_suite() if "timeout" in kinds else hostile_suite(call_ms=30_000)
    runner, log = run_pairs(script_trees(tmp_path, call=steps), suite)
    assert [(event["side"], event["stage"]) for event in runner.events] == [("candidate", "call")]
    assert runner.events[0]["kind"] in kinds, runner.events
    assert set(kinds) <= set(EVENT_KINDS)
    assert_clean(runner.events[0]["detail"])
    assert_clean(log)
    assert len(log) < 100_000


def assert_clean(text: str) -> None:
    """It can be stored as UTF-8 in a database that refuses NUL, and shown on a terminal."""
    text.encode()
    assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), 0x7F, 0x9B, 0x202E)}


@pytest.mark.parametrize(
    ("steps", "kinds"),
    [
        ([["seal_lent"]], ("protocol_violation",)),
        ([["map_lent"]], ("protocol_violation",)),
        ([["truncate_lent"]], ("crash",)),
        ([["send_back"]], ("crash",)),
        ([["close_socket"]], ("crash", "timeout")),
        ([["answer", "y", "float32", [8], "00" * 32]], ("wrong_output",)),
    ],
    ids=["seals it first", "keeps a mapping", "truncates it", "sends descriptors", "closes it", "too little"],
)
def test_what_a_candidate_does_to_lent_memory_is_an_event_on_its_side(
    steps: list[list[object]], kinds: tuple[str, ...], tmp_path: Path
) -> None:
    runner, _ = run_pairs(script_trees(tmp_path, call=steps), hostile_suite(numbers=LARGE))
    assert [(event["side"], event["kind"] in kinds) for event in runner.events] == [("candidate", True)]


@pytest.mark.parametrize(
    "steps", [[["storm"]], [["vfork"]], [["continue_timer"]], [["threads", 20]], [["forks", 20]]]
)
def test_a_candidate_that_cannot_be_frozen_easily_is_measured_or_blamed(
    steps: list[list[object]], tmp_path: Path
) -> None:
    runner, _ = run_pairs(script_trees(tmp_path, load=steps), hostile_suite())
    assert {event["side"] for event in runner.events} <= {"candidate"}
    assert runner.pairs and (runner.events or runner.measured.total() == 1)


@pytest.mark.parametrize(
    "steps",
    [
        [["vfork"]],
        [["continue_timer"]],
        [["storm"]],
        [["forks", 500]],
        [["threads", 500]],
        [["memory", 1024], ["sleep", 60]],
        [["name", b"\x0cVmHWM:\tz".hex()]],
        [["name", b"\rVmHWM:\tz".hex()]],
        [["name", b") R 1 1 1".hex()], ["exit", 3]],
    ],
    ids=str,
)
def test_polled_limits_do_not_fail_the_judge(
    steps: list[list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "usable_hierarchies", lambda: Hierarchies({}, None))
    runner, _ = run_pairs(script_trees(tmp_path, load=steps), hostile_suite())
    assert {event["side"] for event in runner.events} <= {"candidate"}
    assert runner.pairs and (runner.events or runner.measured.total() == 1)


def test_a_thread_in_vfork_is_no_reason_to_blame_anyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest code starts programs as well, and may be frozen just then."""
    monkeypatch.setattr(placement, "usable_hierarchies", lambda: Hierarchies({}, None))
    runner, _ = run_pairs(script_trees(tmp_path, load=[["vfork"]]), hostile_suite())
    assert runner.events == [] and runner.measured.total() == 1
    frozen_ns = runner.pairs[0]["cpu_while_frozen_ns"]["candidate"]
    assert frozen_ns <= frozen_cpu_limit_ns(runner.pairs[0])


def test_a_candidate_that_continues_itself_to_compute_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A polled freezer stops it again and again, or its CPU time while it should have been frozen tells."""
    monkeypatch.setattr(placement, "usable_hierarchies", lambda: Hierarchies({}, None))
    steps = [["continue_timer"], ["spin"]]
    # Base takes its time, so that there is some to compute in.
    trees = script_trees(tmp_path / "candidate", load=steps)
    trees["base"] = script_trees(tmp_path / "base", call=[["sleep", 0.2]], side="base")["base"]
    runner, _ = run_pairs(trees, hostile_suite())
    if runner.events:
        assert [(event["side"], event["kind"]) for event in runner.events] == [("candidate", "timeout")]
        assert "could not be frozen" in runner.events[0]["detail"]
    else:
        assert thawed_side({"pairs": runner.pairs}) == (0, "candidate")
