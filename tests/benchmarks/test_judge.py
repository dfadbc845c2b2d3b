"""The judge with real sandboxes, on the tiny preset: honest candidates, broken ones and cheats.

Candidates are real patches of the shipped stack. What is asserted are verdicts and evidence, never times.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.samples import frozen_cpu_limit_ns
from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.job import Cancellation, Cancelled, Job
from benchmarks.judge import judge
from benchmarks.pairs.clocked import SIDES
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import Side, SideFailed, SideSetup
from benchmarks.patches import apply_patch, diff_trees, parse_patch
from benchmarks.sandbox import best_level
from benchmarks.suites import UnknownSuite, get_suite
from benchmarks.tree_folders import tree_folders
from benchmarks.trees import BlobStore, Tree, TreeEntry, shipped_tree

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(180)]

NONCE = "n" * 64
KEY = generate_key()
MOE = "model/layers/moe.py"
EXPERTS = "model/layers/experts.py"
REFERENCE = "model/layers/experts_reference.py"

# Appended to the shipped layer: replaces its forward by one that does `{body}` around the honest answer.
WRAPPED = """

import os as _os, sys as _sys, threading as _threading, time as _time
_honest = MoELayer.forward


def _forward(self, x_TD):
    {body}


MoELayer.forward = _forward
"""

# Real work, done over and over: enough of it that no noise of a busy machine hides it.
EIGHTFOLD = """
for _ in range(8):
    y_TD = _honest(self, x_TD)
return y_TD
"""


@dataclass
class Bench:
    """Trees of the shipped stack and patches of it, in one store."""

    store: BlobStore
    folder: Path
    shipped: Tree = field(init=False)

    def __post_init__(self) -> None:
        self.shipped = shipped_tree(self.store)

    def text(self, path: str, tree: Tree | None = None) -> str:
        entry = (tree or self.shipped).get(path)
        assert entry is not None
        return self.store.get(entry.blob).decode()

    def patched(self, base: Tree, path: str, text: str) -> Tree:
        """`base` with one file replaced, by way of a real patch."""
        entries = [
            TreeEntry(path, entry.mode, self.store.put(text.encode())) if entry.path == path else entry
            for entry in base.entries
        ]
        patch = parse_patch(diff_trees(base, Tree(tuple(entries)), self.store))
        return apply_patch(base, patch, self.store)

    def textbook(self) -> Tree:
        """Every expert computes every token."""
        return self.patched(self.shipped, EXPERTS, self.text(REFERENCE))

    def wrapped(self, body: str, base: Tree | None = None) -> Tree:
        tree = base or self.shipped
        indented = body.strip().replace("\n", "\n    ")
        return self.patched(tree, MOE, self.text(MOE, tree) + WRAPPED.format(body=indented))

    def judge(self, base: Tree, candidate: Tree, **options: Any) -> dict[str, Any]:
        """Gate with one look, so at most 6 pairs. Verified; returns the document."""
        callbacks = options.pop("callbacks", None) or Record()
        cancellation = options.pop("cancellation", None)
        fields = {
            "run_id": "run-1", "kind": "gate", "suite": "moe_forward", "preset": "tiny", "nonce": NONCE, "looks": 1,
        } | options  # fmt: skip
        job = Job(base_tree=base.hash, candidate_tree=candidate.hash, **fields)
        with tree_folders((base, candidate), self.store, self.folder / "trees") as folders:
            sealed = judge(job, tree_dirs=folders, key=KEY, callbacks=callbacks, cancellation=cancellation)
        report = verify_evidence(
            sealed,
            trusted_keys={sealed["signature"]["key_id"]: public_key(KEY)},
            nonce=fields["nonce"],
            commitment=callbacks.commitment,
        )
        assert report.ok, [check for check in report.checks if not check.holds]
        document: dict[str, Any] = sealed["document"]
        return document


class Record:
    """Callbacks that keep what they are told, in order."""

    def __init__(self, on_pair: Callable[[int], None] = lambda _: None) -> None:
        self.commitment = ""
        self.told: list[str] = []
        self.log = ""
        self._on_pair = on_pair

    def on_commitment(self, commitment: str) -> None:
        self.commitment = commitment
        self.told.append("commitment")

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        self.told.append(f"{stage} {pairs_done}")
        self._on_pair(pairs_done)
        return False

    def on_log(self, text: str) -> None:
        self.log += text


@pytest.fixture
def bench(open_folder: Path) -> Bench:
    return Bench(BlobStore(open_folder / "blobs"), open_folder)


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

    blocks = verdict["pairs"] // 6
    controls = [pair for pair in document["pairs"] if pair["control"]]
    assert len(controls) == blocks and len(document["pairs"]) == 7 * blocks
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
    assert document["checks"]["outputs_checked"] == 7 * blocks * 13  # the untimed warm-up is checked as well
    assert document["checks"]["oracle_checked"] == 7 * blocks * 4
    assert document["checks"]["failures"] == [] and document["events"] == []
    assert set(document["phases_ns"]) == {"setup", "build", "import", "measuring", "checking"}

    # committed before anything was started; progress counts pairs and the log names no result before the verdict
    assert callbacks.told[0] == "commitment" and callbacks.told[-1] == f"gating {verdict['pairs']}"
    before, _, after = callbacks.log.partition("verdict:")
    assert "%" not in before and "gain" in after


def test_a_local_run_is_never_award_eligible_and_neither_is_a_shortened_plan(bench: Bench) -> None:
    broken = bench.patched(bench.shipped, MOE, "raise RuntimeError\n")
    for options, eligible in (
        ({"nonce": "local", "looks": 4}, False),
        ({"looks": 1}, False),
    ):
        document = bench.judge(bench.shipped, broken, **options)
        assert document["sandbox"]["award_eligible"] is eligible


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
        ("return _honest(self, x_TD)[1:]", "wrong_output", "wrong_output", "asked for"),
        ("return _honest(self, x_TD.bfloat16().float())", "wrong_output", "wrong_output", "differ by"),
        ("raise ValueError('not today')", "crash", "wrong_output", "not today"),
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


# -- one pair, one side ------------------------------------------------------------------------------


@contextmanager
def one_pair(
    bench: Bench, base: Tree, candidate: Tree, *, is_control: bool = False, secret: bytes | None = None
) -> Iterator[Pair]:
    suite = get_suite("moe_forward", "tiny")
    seeds = Seeds(secret) if secret else Seeds.fresh()[1]
    plan = PairPlan(0, is_control, suite.cases[0].name, suite.cases[0].draw(seeds.numbers("shape")))
    setup = SideSetup(suite, best_level(), choose_cores())
    with tree_folders((base, candidate), bench.store, bench.folder / "trees") as folders:
        trees = {"base": folders[base.hash], "candidate": folders[candidate.hash]}
        pair = Pair(plan, trees, setup, seeds, Phases(), Quiet(), SampleLog(print))
        try:
            pair.prepare()
            yield pair
        finally:
            pair.close()


def first_called(secret: bytes) -> str:
    """The side that the first pair of a run with this secret calls first: loading draws from the same order before."""
    order = Seeds(secret).order("pair", 0, "calls")
    order.sample(SIDES, 2)
    return order.sample(SIDES, 2)[0]


@pytest.mark.parametrize("called_first", SIDES)
def test_a_control_pair_s_failure_is_base_s_whichever_side_it_strikes(
    bench: Bench, called_first: str
) -> None:
    """Both sides run base's tree: a contributor whose patch never ran has not answered wrongly."""
    secrets = (bytes([number]) * 32 for number in range(256))
    secret = next(secret for secret in secrets if first_called(secret) == called_first)
    base = bench.wrapped("raise ValueError('base is broken')")
    with one_pair(bench, base, bench.shipped, is_control=True, secret=secret) as pair:
        with pytest.raises(SideFailed, match="base is broken") as caught:
            pair.measure()
    assert (caught.value.side, caught.value.kind, caught.value.stage) == ("base", "crash", "call")


def test_threads_that_burn_the_core_stand_still_while_frozen(bench: Bench) -> None:
    candidate = bench.wrapped(
        """
if not hasattr(self, "burner"):
    self.burner = _threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True)
    self.burner.start()
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, bench.shipped, candidate) as pair:
        pair.measure()
        record = pair.record.as_dict()
    assert record["cpu_while_frozen_ns"]["candidate"] <= frozen_cpu_limit_ns(record)


def test_every_thread_of_both_sides_is_held_on_the_measuring_core(bench: Bench) -> None:
    candidate = bench.wrapped(
        """
try:
    _os.sched_setaffinity(0, range(_os.cpu_count()))
except OSError:
    pass
_threading.Thread(target=_time.sleep, args=(60,), daemon=True).start()
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, candidate, candidate) as pair:
        pair.measure()
        held = [
            os.sched_getaffinity(int(task.name))
            for side in pair._sides.values()
            for pid in side.pids()
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    assert len(held) > 2 * 13  # the threads that each call started are among them
    assert all(cores == {choose_cores().measuring} for cores in held)


def test_work_of_a_side_that_is_not_frozen_would_be_seen(bench: Bench) -> None:
    """The same burner, thawed by hand: the account is not zero because nobody counts."""
    suite = get_suite("moe_forward", "tiny")
    seeds = Seeds.fresh()[1]
    problem = suite.problem(suite.cases[0].draw(seeds.numbers("shape")), seeds.numbers("p"))
    burning = bench.patched(
        bench.shipped,
        MOE,
        bench.text(MOE)
        + "\nimport threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()\n",
    )
    with tree_folders((burning,), bench.store, bench.folder / "trees") as folders:
        side = Side(
            "candidate", folders[burning.hash], suite, SideSetup(suite, best_level(), choose_cores()), 1
        )
        try:
            side.await_ready()
            side.load(problem)
            time.sleep(0.2)
            assert side.take_cpu_while_frozen_ns() < 20_000_000
            side.thaw()
            time.sleep(0.3)
            assert side.take_cpu_while_frozen_ns() > 20_000_000
        finally:
            side.close()


def test_the_same_input_is_never_sent_twice_and_both_sides_get_the_same(bench: Bench) -> None:
    """A candidate that remembers what it was asked would answer a repeated input for free."""
    candidate = bench.wrapped(
        """
seen = self.__dict__.setdefault("seen", set())
key = x_TD.numpy().tobytes()
if key in seen:
    raise RuntimeError("asked twice")
seen.add(key)
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, candidate, candidate) as pair:
        pair.measure()
    assert pair.record.outputs_checked == 13


def test_weights_and_shapes_differ_from_pair_to_pair(bench: Bench) -> None:
    suite = get_suite("moe_forward", "tiny")
    seeds = Seeds.fresh()[1]
    weights = [
        suite.problem(suite.cases[0].draw(seeds.numbers("s")), seeds.numbers("pair", n)).weights
        for n in range(2)
    ]
    assert (weights[0]["router.weight"] != weights[1]["router.weight"]).all()


def test_a_killed_pair_fails_instead_of_hanging(bench: Bench) -> None:
    with one_pair(bench, bench.shipped, bench.shipped) as pair:
        pair.kill()
        with pytest.raises(SideFailed):
            pair.measure()
