"""`python -m benchmarks.canary` as the node agent runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.canary.__main__ import NOT_CARRIED_OUT, WRONG
from benchmarks.canary.measure import tree_hash
from benchmarks.canary.order import CanaryOrder, Plan, Shape
from benchmarks.canary.verify import CanaryReport, verify_canary_bytes
from benchmarks.evidence.signing import generate_key, key_id, public_key, save_key
from benchmarks.patch.policy import PolicyViolation, check_touched, load_policy
from benchmarks.sandbox.accounting.processes import ProcessStat, is_running, tree
from tests.benchmarks.canary import trees
from tests.benchmarks.canary.documents import order
from tests.benchmarks.canary.trees import built_tree, changed_tree

ROOT = Path(__file__).resolve().parents[3]
PLAN = Plan((Shape(120, 12), Shape(60, 16)), (1, 4, 7), pairs=25)


class Command:
    """One host: its trees, key and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trees = folder, folder / "trees"
        self.trees.mkdir()
        self.key = generate_key()
        save_key(self.key, folder / "key.pem")
        self.output = folder / "canary.json"

    def words(self, asked: CanaryOrder | str) -> list[str]:
        text = asked if isinstance(asked, str) else json.dumps(asked.to_json())
        (self.folder / "order.json").write_text(text)
        given = {"order": "order.json", "trees": "trees", "folder": "nodes", "key": "key.pem"}
        options = [word for name, path in given.items() for word in (f"--{name}", str(self.folder / path))]
        own = ["--output", str(self.output), "--memory-gib", "3"]
        return [sys.executable, "-m", "benchmarks.canary", *options, *own]

    def start(self, asked: CanaryOrder | str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(asked),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, asked: CanaryOrder | str) -> tuple[int, list[str]]:
        process = self.start(asked)
        _, told = process.communicate(timeout=1_500)
        return process.returncode, told.splitlines()

    def verified(self, asked: CanaryOrder) -> CanaryReport:
        key = public_key(self.key)
        return verify_canary_bytes(
            self.output.read_bytes(), trusted_keys={key_id(key): key}, nonce=asked.nonce, order=asked
        )


@pytest.fixture
def command(open_folder: Path) -> Command:
    return Command(open_folder)


def test_without_options_it_says_which_are_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.canary"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == WRONG and "--order, --trees, --folder, --key, --output are needed" in done.stderr
    )


def test_it_runs_nothing_of_the_stack_that_a_patch_may_touch() -> None:
    code = (
        "import sys, benchmarks.canary.__main__\n"
        "print(*(m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'model'), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()}
    assert "model/serving/api/tokenizer.py" in loaded
    for path in loaded:
        with pytest.raises(PolicyViolation, match="is protected"):
            check_touched(load_policy(), path)


def plan_with(**changes: Any) -> str:
    document = order().to_json()
    document["plan"] |= changes
    return json.dumps(document)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("{", "is no order"),
        ("[]", "is no order"),
        (plan_with(pairs=10**9), "order.plan.pairs"),
        (plan_with(batches=[]), "order.plan.batches"),
        (plan_with(shapes=[]), "order.plan.shapes"),
        (json.dumps(order().to_json() | {"candidate": "../../etc"}), "order.candidate"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_named(command: Command, asked: str, words: str) -> None:
    status, told = command.run(asked)
    assert status == NOT_CARRIED_OUT and words in told[-1] and told[-1].startswith("error: "), told
    assert not command.output.exists()


def test_a_tree_that_is_missing_or_another_one_is_not_clocked(command: Command) -> None:
    status, told = command.run(order())
    assert status == NOT_CARRIED_OUT and "must be fetched and built first" in told[-1]
    for name in ("1" * 64, "2" * 64):
        (command.trees / name / "model").mkdir(parents=True)
        (command.trees / name / "model" / "__init__.py").write_text("")
    status, told = command.run(order())
    assert status == NOT_CARRIED_OUT and f"not {'1' * 12}: fetch it again" in told[-1]


def test_a_key_that_cannot_be_read_is_named_without_its_content(command: Command) -> None:
    (command.folder / "key.pem").write_text("PRIVATE")
    status, told = command.run(order())
    assert status == NOT_CARRIED_OUT and "key.pem" in told[-1] and "PRIVATE" not in "".join(told)


@pytest.fixture
def host(command: Command) -> Iterator[tuple[Command, CanaryOrder]]:
    """A host with the installed tree, and an order of it against itself, as another tree's hash would be."""
    tree = built_tree(command.trees / "installed")
    hashed = tree_hash(tree)
    shutil.copytree(tree, command.trees / hashed)
    yield command, replace(order(served="", best="", candidate=hashed), plan=PLAN)


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.timeout(1_800)
def test_an_equal_tree_passes_and_its_document_verifies(host: tuple[Command, CanaryOrder]) -> None:
    """On a busy machine its times may be anything: only what rests on no time is required of the verdict."""
    command, asked = host
    status, told = command.run(asked)
    assert status == 0, told
    report = command.verified(asked)
    assert report.ok, [check for check in report.checks if not check.holds]
    assert report.verdict.passed or "worse than the tree" in report.verdict.why, report.verdict.why
    assert report.verdict.served["decode"].pairs in (25, 50), "twice as many by a second look"
    assert len(report.verdict.batch_times) == 3 and report.verdict.prefill_times
    assert all(line.startswith("progress: ") for line in told) and told[-1][10:] in ("passed", "refused")
    assert not list((command.folder / "nodes").iterdir()), "nothing is left of the nodes"


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.measures
@pytest.mark.timeout(1_800)
def test_a_tree_that_is_really_slower_is_refused(host: tuple[Command, CanaryOrder]) -> None:
    """Each step is computed four times, so answers are the same."""
    command, asked = host
    slower = changed_tree(command.trees / "installed", command.folder / "slower", trees.SLOWER)
    hashed = tree_hash(slower)
    slower.rename(command.trees / hashed)
    slow = replace(asked, candidate=hashed)
    status, told = command.run(slow)
    report = command.verified(slow)
    assert status == 0 and report.ok and told[-1] == "progress: refused"
    assert not report.verdict.passed
    assert "worse than the tree that is served now when measured once more" in report.verdict.why
    assert report.verdict.served["decode"].estimate_log_ppm < -100_000


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.timeout(900)
def test_sigterm_ends_it_and_its_nodes_at_once(host: tuple[Command, CanaryOrder]) -> None:
    command, asked = host
    process = command.start(asked)
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1" in line:
            break
    nodes: list[ProcessStat] = []
    deadline = time.monotonic() + 300
    while len(nodes) < 6 and time.monotonic() < deadline:  # two sandboxes, one of them frozen
        time.sleep(0.1)
        nodes = [stat for stat in tree(process.pid) if stat.pid != process.pid]
    assert len(nodes) >= 6, nodes
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode not in (0, NOT_CARRIED_OUT) and time.monotonic() - begin < 15
    assert not command.output.exists()
    assert not [stat for stat in nodes if is_running(stat.pid, stat.start_ticks)]
    assert not list((command.folder / "nodes").glob("canary-*"))
