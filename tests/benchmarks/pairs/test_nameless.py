"""Copies of a run's trees: which one a side gets says nothing, and no pair leaves a mark in them for a later one."""

from __future__ import annotations

import random
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.pairs.nameless import NamelessCopies
from tests.benchmarks.pairs.hostile_suite import hostile_suite, run_pairs, script_tree, script_trees
from tests.benchmarks.sandbox.sandbox_levels import LEVELS, level_or_skip

DRAWS = 400


@pytest.fixture
def trees(tmp_path: Path) -> dict[str, Path]:
    return {
        name: script_tree(tmp_path / name, call=[["log", number, "00"]])
        for number, name in enumerate(("base", "candidate", "old"))
    }


def script(folder: Path) -> bytes:
    return (folder / "model/script.json").read_bytes()


def test_each_side_has_its_tree_in_a_folder_that_no_other_side_has(trees: dict[str, Path]) -> None:
    with closing(NamelessCopies(trees)) as copies:
        for tree in ("candidate", "base", "old"):
            drawn = copies.draw(tree, random.Random(tree))
            assert script(drawn["base"]) == script(trees["base"])
            assert script(drawn["candidate"]) == script(trees[tree])
            assert drawn["base"] != drawn["candidate"]
            assert not {drawn["base"], drawn["candidate"]} & set(trees.values())


def test_in_a_direct_pair_the_old_tree_has_base_s_seat(trees: dict[str, Path]) -> None:
    with closing(NamelessCopies(trees)) as copies:
        drawn = copies.draw("direct", random.Random(1))
        assert script(drawn["base"]) == script(trees["old"])
        assert script(drawn["candidate"]) == script(trees["candidate"])
        assert drawn["candidate"] == copies.draw("candidate", random.Random(2))["candidate"]
        assert drawn["base"] == copies.draw("old", random.Random(3))["candidate"]


def test_a_patch_that_is_the_old_tree_never_shares_a_copy_with_it(trees: dict[str, Path]) -> None:
    with closing(NamelessCopies({**trees, "candidate": trees["old"]})) as copies:
        for number in range(10):
            drawn = copies.draw("direct", random.Random(number))
            assert drawn["base"] != drawn["candidate"]
            assert script(drawn["base"]) == script(drawn["candidate"]) == script(trees["old"])


def test_a_tree_against_itself_gets_two_copies(trees: dict[str, Path]) -> None:
    with closing(NamelessCopies({"base": trees["base"], "candidate": trees["base"]})) as copies:
        drawn = copies.draw("candidate", random.Random(0))
        assert drawn["base"] != drawn["candidate"]


def test_a_copy_of_base_is_as_likely_next_to_a_patch_as_next_to_base(trees: dict[str, Path]) -> None:
    seen: dict[str, Counter[Path]] = {"candidate": Counter(), "base": Counter()}
    with closing(NamelessCopies(trees)) as copies:
        for number in range(DRAWS):
            for tree, drawn in seen.items():
                drawn[copies.draw(tree, random.Random(f"{tree} {number}"))["base"]] += 1
    # Each of the two copies in half of the draws: four standard deviations of that are 40.
    assert [len(drawn) for drawn in seen.values()] == [2, 2]
    assert all(abs(count - DRAWS / 2) < 40 for drawn in seen.values() for count in drawn.values())


def test_both_copies_of_base_are_made_at_once_and_all_are_removed(trees: dict[str, Path]) -> None:
    folder = trees["base"].parent
    with closing(NamelessCopies(trees)) as copies:
        copies.draw("candidate", random.Random(1))
        made = set(folder.iterdir())
        for number in range(20):
            copies.draw("candidate", random.Random(number))
        assert set(folder.iterdir()) == made and len(made) == len(trees) + 3
    assert set(folder.iterdir()) == set(trees.values())


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_what_a_side_does_to_its_copy_is_not_there_in_the_next_pair(level: str, tmp_path: Path) -> None:
    trees = script_trees(tmp_path, call=[["mark_tree"]])
    runner, log = run_pairs(trees, hostile_suite(), level=level_or_skip(level), pairs=2)
    assert not runner.events, runner.events
    seen = re.findall(r"^\[candidate, pair \d\] TREE (.*)$", log, flags=re.MULTILINE)
    assert len(seen) >= 4 and len(set(seen)) == 1
    assert "MARKED" not in log
