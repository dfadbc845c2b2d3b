"""Cheats against what a sample holds, counts and is asked: each applies, and the mechanism that refuses it does.

Their positive controls are measured with all others', in `test_controls.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pairs.side import SideFailed
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.trees import Tree
from benchmarks.redteam.patch_file import CHEATS, RedTeamPatch, read_all
from benchmarks.sandbox.accounting.placement import counted_by
from benchmarks.suites import get_suite
from tests.benchmarks.suites.suite_pairs import Trees

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(900)]

# Behind a cheat: it fails aloud where it finds what it looks for.
TELLS_WHAT_IT_FOUND = """

_found = _coming


def _coming(part):
    later = _found(part)
    if len(later) > 1:
        raise RuntimeError("other sequences are in the frames")
    return later
"""
TELLS_A_SECOND_LOAD = """

_remembering = load_transformer


def load_transformer(folder, dtype=None):
    if _loaded:
        raise RuntimeError("this process has loaded before")
    return _remembering(folder, dtype)
"""


@pytest.fixture(scope="module")
def cheats() -> dict[str, RedTeamPatch]:
    return {patch.name: patch for patch in read_all([CHEATS])}


@pytest.fixture
def trees(open_folder: Path) -> Trees:
    return Trees(open_folder)


def patched(trees: Trees, patch: RedTeamPatch) -> Tree:
    return apply_patch(trees.shipped, parse_patch(patch.diff.decode()), trees.store)


def test_nothing_of_another_sequence_is_in_the_frames(trees: Trees, cheats: dict[str, RedTeamPatch]) -> None:
    cheat = cheats["steps-of-one-message"]
    loud = trees.appended("model/serving/executors/native.py", TELLS_WHAT_IT_FOUND, to=patched(trees, cheat))
    suite = get_suite(cheat.suite, "tiny")
    record = trees.measure(suite, loud)
    assert record.outputs_checked == suite.calls_per_side + 1


def test_no_process_loads_twice(trees: Trees, cheats: dict[str, RedTeamPatch]) -> None:
    cheat = cheats["loads-remembered"]
    loud = trees.appended("model/checkpoint.py", TELLS_A_SECOND_LOAD, to=patched(trees, cheat))
    record = trees.measure(get_suite(cheat.suite, "tiny"), loud)
    assert len(record.calls) == 2


@pytest.mark.skipif(
    not counted_by()["memory"].startswith("cgroup"), reason="expected: no cgroup counts memory here"
)
def test_memory_in_files_of_tmp_is_counted(trees: Trees, cheats: dict[str, RedTeamPatch]) -> None:
    cheat = cheats["memory-in-files"]
    used = dict(trees.measure(get_suite(cheat.suite, "tiny"), patched(trees, cheat)).calls)
    assert used["candidate"] > 0.97 * used["base"]


def test_held_out_text_is_nowhere_to_be_looked_up(trees: Trees, cheats: dict[str, RedTeamPatch]) -> None:
    cheat = cheats["text-looked-up"]
    try:
        losses = dict(trees.measure(get_suite(cheat.suite, "tiny"), patched(trees, cheat)).calls)
    except SideFailed as failed:  # it searches for longer than scoring may take
        assert failed.kind in ("suspicious", "timeout") and failed.side == "candidate"
    else:
        assert (
            losses["candidate"] > 0.7 * losses["base"]
        )  # on a busy machine steps differ; a text that is known has a tenth


def test_larger_steps_than_the_operator_allows_are_a_wrong_output(
    trees: Trees, cheats: dict[str, RedTeamPatch]
) -> None:
    cheat = cheats["steps-eight-times-as-large"]
    with pytest.raises(SideFailed, match="step_tokens") as failed:
        trees.measure(get_suite("mixed_load", "tiny"), patched(trees, cheat))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
