"""Direct pairs in real sandboxes: the old tree has base's seat, and what fails is named by its tree."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.runner import PairRunner
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seats import ABOUT_BASE, SEATS, SIDES, has_tree
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideSetup
from benchmarks.sandbox import SandboxLevel, best_level
from benchmarks.suites import get_suite
from tests.benchmarks.pairs.hostile_suite import hostile_suite, script_tree

CASE = "doubling"
WRONG = [["answer_number", "00004842"]]  # 50.0


def taken(
    folder: Path, scripts: dict[str, list[Any]], *, measured: int = 0, old: int = 0, direct: int = 0
) -> tuple[PairRunner, str]:
    """One block of a run whose trees have these scripts, and its log."""
    log: list[str] = []
    trees = {
        name: script_tree(folder / name, call=scripts.get(name, [])) for name in ("base", "candidate", "old")
    }
    with closing(NamelessCopies(trees)) as copies:
        runner = PairRunner(
            copies,
            SideSetup(hostile_suite(), best_level(), choose_cores(), wall_s=120),
            Seeds(bytes(range(32))),
            phases=Phases(),
            quiet=Quiet(),
            cancellation=Cancellation(),
            on_log=log.append,
            on_pair=lambda _: None,
        )
        runner.take_block({CASE: measured}, controls=0, old=old, direct=direct)
    return runner, "".join(log)


def test_each_kind_of_pair_says_what_runs_in_both_seats() -> None:
    assert all(tuple(trees) == SIDES for trees in SEATS.values())
    assert SEATS["direct"] == {"base": "old", "candidate": "candidate"}
    assert set(ABOUT_BASE) == {"old", "direct"}
    assert [kind for kind in SEATS if not has_tree(kind, "candidate")] == ["base", "old"]


@pytest.mark.sandbox
@pytest.mark.slow
def test_the_old_tree_and_the_candidate_run_without_base(open_folder: Path) -> None:
    scripts = {name: [["log", 1, name.encode().hex() + "0a"]] for name in ("base", "candidate", "old")}
    runner, log = taken(open_folder, scripts, measured=1, direct=1)
    assert not runner.events, runner.events
    direct = next(pair["index"] for pair in runner.pairs if pair["tree"] == "direct")
    assert f"[old, pair {direct}] old" in log and f"[candidate, pair {direct}] candidate" in log
    assert f"[base, pair {direct}]" not in log
    assert runner.measured[CASE] == 1
    assert [pair["control"] for pair in runner.pairs] == [False, False]


@pytest.mark.sandbox
@pytest.mark.slow
def test_an_old_tree_that_fails_ends_direct_and_old_pairs_only(open_folder: Path) -> None:
    runner, _ = taken(open_folder, {"old": [["exit", 3]]}, measured=2, old=2, direct=2)
    assert [(event["side"], event["kind"]) for event in runner.events] == [("old", "crash")]
    assert runner.has_lost_old and not runner.has_ended
    assert runner.measured[CASE] == 2
    assert sum(pair["tree"] in ABOUT_BASE for pair in runner.pairs) == 1


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.parametrize("tree", ["old", "candidate"])
def test_a_wrong_answer_in_a_direct_pair_is_that_of_the_tree_that_gave_it(
    open_folder: Path, tree: str
) -> None:
    runner, _ = taken(open_folder, {tree: WRONG}, direct=2)
    (event,) = runner.events
    assert (event["side"], event["kind"]) == (tree, "wrong_output")
    assert event["detail"].startswith("in a pair with the tree before base in base's place: y: ")
    assert runner.has_ended == (tree == "candidate")


def test_trees_of_a_direct_pair_may_differ_by_two_patches() -> None:
    """Each of them was allowed the tolerance against the one before it."""
    suite = get_suite("train_step", "tiny")

    def pair_of(kind: str) -> Pair:
        setup = SideSetup(suite, SandboxLevel.NONE, choose_cores(), wall_s=1)
        plan = PairPlan(0, suite.cases[0].name, {}, kind)
        seeds, log = Seeds(bytes(32)), SampleLog(lambda _: None)
        return Pair(plan, NamelessCopies({}), setup, seeds, Phases(), Quiet(), log)

    for output in ("loss", "logits"):
        once = suite.tolerance_of(output)
        for kind in SEATS:
            expected = once.times(2) if kind == "direct" else once
            assert pair_of(kind)._suite.tolerance_of(output) == expected
