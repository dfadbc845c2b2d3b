"""The two nodes of a round, in real sandboxes: by turns on one core, or at once on two; what ends one of them or both."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.canary.answers import Ask
from benchmarks.canary.node import NodeFailed, NodeSetup
from benchmarks.canary.node_pair import CANDIDATE, PARTNER, SIDES, NodePair
from benchmarks.canary.verdict import FROZEN_NS
from benchmarks.pairs.cores import Cores, choose_cores
from benchmarks.sandbox.levels import GIB
from tests.benchmarks.canary import trees
from tests.benchmarks.canary.trees import changed_tree
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(300)]

ASK = Ask("The quick brown fox jumps over the lazy dog.", 8, f"{1:032x}")
LONG = Ask(ASK.prompt, 60, f"{2:032x}")  # a tree of `trees` that fails does so after 40 steps


def two_cores() -> Cores:
    cores = choose_cores()
    if cores.measuring == cores.judge:
        pytest.skip("expected: this machine gives one core")
    return cores


def pair_of(candidate: Path, partner: Path, folder: Path, cores: Cores) -> NodePair:
    setup = NodeSetup("tiny", None, level_or_skip("best"), "cpu", 3 * GIB, cores)
    code = {CANDIDATE: candidate, PARTNER: partner}
    return NodePair(code, folder / "nodes", {CANDIDATE: 12, PARTNER: 13}, setup)


def cores_of(pair: NodePair, side: str) -> set[int]:
    """Those that any thread of the node's processes may use."""
    found: set[int] = set()
    for pid in pair[side].pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= os.sched_getaffinity(int(task.name))
    return found


def test_nodes_are_asked_by_turns_on_one_core_and_at_once_on_two(tree: Path, folder: Path) -> None:
    cores = two_cores()
    pair = pair_of(tree, tree, folder, cores)
    with pair.ended():
        started = pair.start(SIDES, ASK, is_clocked=False)
        assert {side: cores_of(pair, side) for side in SIDES} == {
            CANDIDATE: {cores.measuring},
            PARTNER: {cores.judge},
        }
        turns = pair.by_turns(SIDES, [ASK], "decode")
        assert all(cores_of(pair, side) == {cores.measuring} for side in SIDES)
        once = pair.at_once((PARTNER, CANDIDATE), [LONG] * 7, "mixed")
        assert cores_of(pair, PARTNER) == {cores.measuring} and cores_of(pair, CANDIDATE) == {cores.judge}
        again = pair.by_turns((PARTNER, CANDIDATE), [ASK], "decode")
        assert all(cores_of(pair, side) == {cores.measuring} for side in SIDES)
    texts = {found[0].text for found in started.values()}
    texts |= {done[side][0][0].text for done in (turns, again) for side in SIDES}
    assert len(texts) == 1, "equal trees answer the same, wherever they are asked"
    assert [one.digest() for one in once[CANDIDATE][0]] == [one.digest() for one in once[PARTNER][0]]
    assert all(load_ns > 100_000_000 for _, load_ns in started.values())
    assert max(pair.cpu_while_frozen_ns.values()) <= FROZEN_NS


def test_two_nodes_that_are_asked_at_once_answer_at_the_same_time(tree: Path, folder: Path) -> None:
    """Each of them waits as long as both need: were one asked after the other, it would be the sum."""
    pair = pair_of(
        changed_tree(tree, folder / "a", trees.WAITS),
        changed_tree(tree, folder / "b", trees.WAITS),
        folder,
        two_cores(),
    )
    with pair.ended():
        pair.start(SIDES, ASK, is_clocked=True)
        begin = time.perf_counter_ns()
        done = pair.at_once(SIDES, [ASK], "mixed")
        both_ns = time.perf_counter_ns() - begin
    assert both_ns < sum(done[side][1].ns for side in SIDES) * 3 // 4


def test_on_one_core_nodes_go_by_turns(tree: Path, folder: Path) -> None:
    core = choose_cores().measuring
    pair = pair_of(tree, tree, folder, Cores(core, core))
    with pair.ended():
        pair.start(SIDES, ASK, is_clocked=False)
        pair.at_once(SIDES, [ASK], "mixed")
        assert all(cores_of(pair, side) == {core} for side in SIDES)
    assert max(pair.cpu_while_frozen_ns.values()) <= FROZEN_NS


@pytest.mark.parametrize(
    ("broken", "whose"), [((CANDIDATE,), CANDIDATE), (SIDES, PARTNER)], ids=["one", "both"]
)
def test_who_failed_when_nodes_are_asked_at_once(
    tree: Path, folder: Path, broken: tuple[str, ...], whose: str
) -> None:
    """Where both fail it is not the candidate's fault: the served tree failed, too."""
    dying = changed_tree(tree, folder / "changed", trees.DIES)
    sides = [dying if side in broken else tree for side in SIDES]
    pair = pair_of(sides[0], sides[1], folder, two_cores())
    with pair.ended(), pytest.raises(NodeFailed) as caught:
        pair.start(SIDES, ASK, is_clocked=False)
        pair.at_once(SIDES, [LONG], "mixed")
    assert (caught.value.side, caught.value.kind) == (whose, "crash")


def test_a_signal_ends_nodes_that_are_asked_at_once(tree: Path, folder: Path) -> None:
    hanging = changed_tree(tree, folder / "changed", trees.HANGS)
    pair = pair_of(hanging, hanging, folder, two_cores())

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), pair.ended():
            pair.start(SIDES, ASK, is_clocked=False)
            begin = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 3.0)
            pair.at_once(SIDES, [LONG], "mixed")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 3 <= time.monotonic() - begin < 15, "not the two minutes that an answer may take"
    assert not pair[CANDIDATE].pids() and not pair[PARTNER].pids()
