"""The judge with real sandboxes, on the tiny preset: honest candidates, broken ones and cheats.

Candidates are real patches of the shipped stack. What is asserted are verdicts and evidence, never times; only tests
whose verdict rests on times have the machine for themselves.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks.evidence.partner import SURE_COMPARISONS
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.judging.job import Job
from benchmarks.judging.judge import judge
from benchmarks.patch.trees import BlobStore
from benchmarks.suites import UnknownSuite
from tests.benchmarks.judging.judge_bench import EIGHTFOLD, KEY, MOE, Bench, Record

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(180)]


@pytest.fixture
def bench(open_folder: Path) -> Bench:
    return Bench(BlobStore(open_folder / "blobs"), open_folder)


@pytest.mark.measures
def test_a_faster_candidate_is_a_gain_and_everything_is_in_the_evidence(bench: Bench) -> None:
    slow = bench.wrapped(EIGHTFOLD, bench.textbook())
    for _ in range(3):  # on a busy machine base's own times wander, which the judge rightly finds suspicious
        callbacks = Record()
        document = bench.judge(slow, bench.shipped, callbacks=callbacks, looks=2)
        verdict = document["verdict"]
        if verdict["kind"] != "suspicious":
            break
    assert verdict["kind"] == "gain", verdict["reason"]
    assert verdict["log_ppm_estimate"] > 0 and verdict["pairs"] in (6, 12)

    controls = [pair for pair in document["pairs"] if pair["control"]]
    taken = len(document["pairs"])
    measured = taken - len(controls)
    # A control pair in each block of 6; more are taken where few seem to show a slow-down, before a patch is suspected.
    assert measured in (6, 12) and verdict["pairs"] <= measured
    assert measured // 6 <= len(controls) <= SURE_COMPARISONS
    for pair in document["pairs"]:
        sides = [side for side, _ns in pair["calls"]]
        assert len(sides) == 2 * 12
        assert all(
            {first, second} == {"base", "candidate"}
            for first, second in zip(sides[::2], sides[1::2], strict=True)
        )
        assert all(ns > 0 for _side, ns in pair["calls"])
    orders = {tuple(side for side, _ns in pair["calls"]) for pair in document["pairs"]}
    assert len(orders) > 1  # calls alternate in random order
    assert document["checks"]["outputs_checked"] == taken * 13  # the untimed warm-up is checked as well
    assert document["checks"]["oracle_checked"] == taken * 4
    assert document["checks"]["failures"] == [] and document["events"] == []
    assert set(document["phases_ns"]) == {"setup", "build", "import", "measuring", "checking"}

    # committed before anything was started; progress counts pairs and the log names no result before the verdict
    assert callbacks.told[0] == "commitment" and callbacks.told[-1] == f"gating {measured}"
    before, _, after = callbacks.log.partition("verdict:")
    assert "%" not in before and "gain" in after


@pytest.mark.long
@pytest.mark.measures
def test_a_gain_at_the_plan_s_end_takes_the_control_pairs_that_it_lacks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.evidence.partner.UNITS_PER_CONTROL", 2
    )  # three for the 6 pairs of one look
    document = bench.judge(bench.wrapped(EIGHTFOLD, bench.textbook()), bench.shipped, looks=1)
    assert document["verdict"]["kind"] in ("gain", "suspicious"), document["verdict"]["reason"]
    assert [pair["control"] for pair in document["pairs"]].count(False) == 6
    assert sum(pair["control"] for pair in document["pairs"]) >= 3


def test_a_local_run_is_never_award_eligible_and_neither_is_a_shortened_plan(bench: Bench) -> None:
    broken = bench.patched(bench.shipped, MOE, "raise RuntimeError\n")
    for options, eligible in (
        ({"nonce": "local", "looks": 4}, False),
        ({"looks": 1}, False),
    ):
        document = bench.judge(bench.shipped, broken, **options)
        assert document["sandbox"]["award_eligible"] is eligible


@pytest.mark.measures
def test_a_candidate_that_stops_its_clocks_and_prints_a_verdict_is_as_slow_as_it_is(bench: Bench) -> None:
    candidate = bench.wrapped(
        """
for name in ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns"):
    setattr(_time, name, lambda: 0)
print('{{"verdict": {{"kind": "gain", "log_ppm_bound": 900000}}}}', flush=True)
_os.write(1, b"GSF1 gain gain gain")
"""
        + EIGHTFOLD
    )
    callbacks = Record()
    document = bench.judge(bench.shipped, candidate, callbacks=callbacks, looks=2)
    assert document["events"] == []
    assert document["verdict"]["kind"] == "regression", document["verdict"]["reason"]
    assert "[candidate, pair " in callbacks.log and "GSF1 gain gain gain" in callbacks.log


@pytest.mark.measures
def test_a_no_op_is_no_gain(bench: Bench) -> None:
    candidate = bench.patched(bench.shipped, MOE, bench.text(MOE) + "\n# measurably faster, trust me\n")
    document = bench.judge(bench.shipped, candidate)
    assert document["events"] == []
    assert document["verdict"]["kind"] != "gain"
    assert document["verdict"]["pairs"] == 6


@pytest.mark.parametrize(
    ("body", "event", "verdict", "words"),
    [
        ("return _honest(self, x_TD) * 1.0001", "wrong_output", "wrong_output", "differ by"),
        ("return _honest(self, x_TD) * float('nan')", "wrong_output", "wrong_output", "not finite"),
        ("return _honest(self, x_TD).double()", "wrong_output", "wrong_output", "float64"),
        ("return _honest(self, x_TD)[1:]", "wrong_output", "wrong_output", "expected is"),
        ("return _honest(self, x_TD.bfloat16().float())", "wrong_output", "wrong_output", "differ by"),
        ("raise ValueError('not today')", "crash", "wrong_output", "not today"),
        (
            r"raise ValueError('a\ud800b\0c\x1b[31m\u202ed')",
            "crash",
            "wrong_output",
            r"a\ud800b\x00c\x1b[31m\u202ed",
        ),
        ("_os._exit(0)", "crash", "wrong_output", "status 0"),
        ("_os.kill(_os.getpid(), 11)", "crash", "wrong_output", "status 139"),
        ("while True: pass", "timeout", "timeout", "3000 ms"),
        ("_time.sleep(3600)", "timeout", "timeout", "3000 ms"),
        (
            "import torch\nself.hoard = [torch.ones(1 << 24) for _ in range(200)]",
            "resource_limit",
            "resource_limit",
            "memory",
        ),
    ],
)
def test_a_candidate_that_does_not_answer_rightly_ends_the_run_early(
    bench: Bench, body: str, event: str, verdict: str, words: str
) -> None:
    document = bench.judge(bench.shipped, bench.wrapped(body))
    assert [found["kind"] for found in document["events"]] == [event]
    assert words in document["events"][0]["detail"]
    assert document["verdict"]["kind"] == verdict
    assert document["events"][0]["side"] == "candidate"
    assert len([pair for pair in document["pairs"] if not pair["control"]]) == 1


# Says when it is called, then hangs: its words must have arrived before its time is up.
TALKS_AND_HANGS = """
self.calls = getattr(self, "calls", 0) + 1
print("call", self.calls, file=_sys.stderr, flush=True)
if self.calls == 3:
    _time.sleep(3600)
return _honest(self, x_TD)
"""


def test_what_a_sample_writes_is_told_while_it_runs_and_kept_however_it_ends(bench: Bench) -> None:
    callbacks = Record()
    document = bench.judge(bench.shipped, bench.wrapped(TALKS_AND_HANGS), callbacks=callbacks)
    assert [found["kind"] for found in document["events"]] == ["timeout"]
    log = callbacks.log
    assert [f"] call {number}\n" in log for number in (1, 2, 3)] == [True] * 3
    assert log.index("] call 1") < log.index("timeout: candidate")  # told as it came, not with the ending


# Keeps a writable view of the memory that the judge lends for an answer, to write into it after the clock has stopped.
KEEP_LENT_MEMORY = """
import mmap
sealed = _sys.modules["sealed"]
if not hasattr(sealed, "kept"):
    honest_receive, sealed.kept = sealed._receive, []

    def receive(sock, purpose, size, deadline):
        fd = honest_receive(sock, purpose, size, deadline)
        if purpose == sealed.OUTPUT:
            sealed.kept.append(mmap.mmap(fd, size))
        return fd

    sealed._receive = receive
return _honest(self, x_TD)
"""


def test_an_answer_that_could_still_be_written_is_refused(bench: Bench) -> None:
    document = bench.judge(bench.shipped, bench.wrapped(KEEP_LENT_MEMORY), preset="demo")
    assert [found["kind"] for found in document["events"]] == ["protocol_violation"]
    assert "could not be sealed" in document["events"][0]["detail"]
    assert document["verdict"]["kind"] == "policy_violation"


# Writes to every descriptor that is a pipe; the judge's is among them.
TO_EVERY_PIPE = """
for fd in range(3, 64):
    try:
        if "pipe" in _os.readlink(f"/proc/self/fd/{{fd}}"):
            _os.write(fd, {data})
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            TO_EVERY_PIPE.format(data='b\'{"verdict":"gain"}\' * 9') + "return _honest(self, x_TD)",
            "begin a frame",
        ),
        # a whole frame of another kind before the answer
        (
            TO_EVERY_PIPE.format(data="b'GSF1' + bytes([3]) + bytes(3) + bytes([3, 0, 0, 0]) + bytes(12)")
            + "return _honest(self, x_TD)",
            "LOADED",
        ),
        # bytes after the answer, from a thread that outlives the call
        (
            "def _later():\n"
            "    while True:"
            + TO_EVERY_PIPE.format(data="b'x'").replace("\n", "\n        ")
            + "\n_threading.Thread(target=_later, daemon=True).start()\n"
            "return _honest(self, x_TD)",
            "",
        ),
    ],
)
def test_forged_frames_earn_nothing_and_the_reason_says_so(bench: Bench, body: str, words: str) -> None:
    document = bench.judge(bench.textbook(), bench.wrapped(body))
    assert [event["kind"] for event in document["events"]] == ["protocol_violation"]
    assert words in document["events"][0]["detail"]
    assert document["verdict"]["kind"] == "policy_violation"
    assert document["verdict"]["log_ppm_bound"] is None


@pytest.mark.parametrize(
    ("text", "stage"),
    [("def broken(:\n", "build"), ("raise RuntimeError('at import')\n", "load"), ("", "load")],
)
def test_a_candidate_that_does_not_build_or_import_is_told_so(bench: Bench, text: str, stage: str) -> None:
    callbacks = Record()
    document = bench.judge(bench.shipped, bench.patched(bench.shipped, MOE, text), callbacks=callbacks)
    assert document["verdict"]["kind"] == "build_failed"
    assert document["events"][0]["stage"] == stage
    assert "candidate" in callbacks.log


def test_a_broken_base_is_the_platform_s_trouble(bench: Bench) -> None:
    base = bench.wrapped("raise ValueError('base is broken')")
    document = bench.judge(base, bench.shipped)
    assert document["verdict"]["kind"] == "infrastructure_error"
    assert document["events"][0]["side"] == "base"


def test_a_confirmation_takes_the_number_of_pairs_fixed_beforehand(bench: Bench) -> None:
    wrong = bench.wrapped("return _honest(self, x_TD) + 1")
    callbacks = Record()
    document = bench.judge(bench.shipped, wrong, kind="confirmation", callbacks=callbacks, looks=4)
    assert "measuring 0" in callbacks.told
    assert document["verdict"]["kind"] == "wrong_output"
    assert document["sandbox"]["award_eligible"] is False  # tiny is no preset of the catalogue


def test_two_runs_commit_to_different_secrets(bench: Bench) -> None:
    broken = bench.patched(bench.shipped, MOE, "raise RuntimeError\n")
    first, second = (bench.judge(bench.shipped, broken) for _ in range(2))
    assert first["secrets"] != second["secrets"] and first["commitment"] != second["commitment"]


def test_a_commitment_that_cannot_be_posted_stops_the_run_before_anything_starts(bench: Bench) -> None:
    class Unreachable(Record):
        def on_commitment(self, commitment: str) -> None:
            raise ConnectionError("away")

    callbacks = Unreachable()
    with pytest.raises(ConnectionError):
        bench.judge(bench.shipped, bench.shipped, callbacks=callbacks)
    assert callbacks.told == []


def own_samples() -> list[int]:
    """Sandboxes of this very process: bubblewrap's monitors are its children."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue  # it has just ended
            if parent == os.getpid() and "bwrap" in (path / "cmdline").read_text():
                found.append(int(path.name))
    return found


def test_cancelling_ends_a_hanging_call_at_once_and_leaves_nothing_running(bench: Bench) -> None:
    candidate = bench.wrapped("_time.sleep(3600)")
    cancellation = Cancellation()

    def cancel_once_samples_run() -> None:
        while len(own_samples()) < 2:
            time.sleep(0.01)
        cancellation.cancel("withdrawn")

    thread = threading.Thread(target=cancel_once_samples_run, daemon=True)
    thread.start()
    with pytest.raises(Cancelled, match="withdrawn"):
        bench.judge(bench.shipped, candidate, cancellation=cancellation)
    thread.join()
    assert own_samples() == []


def test_the_platform_s_wish_to_stop_is_obeyed(bench: Bench) -> None:
    class Stopping(Record):
        def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
            return super().on_progress(stage, pairs_done, pairs_max) or stage == "gating"

    with pytest.raises(Cancelled):
        bench.judge(bench.shipped, bench.shipped, callbacks=Stopping())
    assert own_samples() == []


def test_unknown_suites_and_lopsided_controls_are_refused() -> None:
    with pytest.raises(ValueError, match="itself"):
        Job("r", "aa", "moe_forward", "tiny", "a" * 64, "b" * 64)
    job = Job("r", "gate", "moe_forward", "gigantic", "a" * 64, "b" * 64)
    with pytest.raises(UnknownSuite, match="gigantic"):
        judge(job, tree_dirs={}, key=KEY, callbacks=Record())
