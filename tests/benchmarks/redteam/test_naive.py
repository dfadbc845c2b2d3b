"""Positive controls: naive harnesses fall for cheats, as they must, and see nothing in an honest patch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.patch.patches import diff_trees
from benchmarks.patch.trees import Tree, TreeEntry
from benchmarks.redteam.attempt import control_of, needs_checkout
from benchmarks.redteam.judging import Bench
from benchmarks.redteam.naive import PARTS, Control, harness_names, run_control
from benchmarks.redteam.patch_file import CHEATS, RedTeamPatch, read_all, read_patch_file

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(120)]

SEAM = "model/layers/__init__.py"
HEADER = """# class: 0 {name}
# suite: moe_forward tiny
# naive: {naive}
# wins-by: nothing
# expect: no_gain
# seam: model/layers/__init__.py
# why: words
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("redteam")
    for path in (folder, *folder.parents[:2]):  # the sandbox's user passes through
        path.chmod(0o755)
    yield Bench(folder)


@pytest.fixture(scope="module")
def cheats() -> dict[str, RedTeamPatch]:
    return {patch.name: patch for patch in read_all([CHEATS])}


def appended(bench: Bench, code: str, folder: Path, naive: str) -> RedTeamPatch:
    """The shipped tree with `code` at the end of one file, as a cheat's patch file."""
    entry = bench.shipped.get(SEAM)
    assert entry is not None
    blob = bench.store.put(bench.store.get(entry.blob) + code.encode())
    entries = (TreeEntry(e.path, e.mode, blob) if e.path == SEAM else e for e in bench.shipped.entries)
    path = folder / "01-some-patch.diff"
    path.write_text(
        HEADER.format(name="test", naive=naive) + diff_trees(bench.shipped, Tree(tuple(entries)), bench.store)
    )
    return read_patch_file(path)


@pytest.mark.measures
def test_a_naive_timer_falls_for_a_bent_clock(bench: Bench, cheats: dict[str, RedTeamPatch]) -> None:
    """`tests/acceptance/test_redteam.py` does the same with a cache and with forged lines."""
    control = control_of(bench, cheats["clock-python"])
    assert control.is_won, control
    assert control.harness == "same_inputs"


@pytest.mark.measures
def test_a_naive_timer_sees_no_gain_in_a_comment(bench: Bench, tmp_path: Path) -> None:
    control = control_of(bench, appended(bench, "# A comment.\n", tmp_path, "same_inputs"))
    assert 0.2 < control.ratio < 2.0, control


def test_a_naive_timer_refuses_what_is_wrong_from_the_first_answer_on(bench: Bench, tmp_path: Path) -> None:
    code = "from model.layers.moe.layer import MoELayer\nMoELayer.forward = lambda self, x_TD: x_TD * 0\n"
    control = control_of(bench, appended(bench, code, tmp_path, "same_inputs"))
    assert control.ratio == 0
    assert "refused" in control.note


@pytest.mark.long
def test_a_stack_that_cannot_be_imported_wins_nothing(bench: Bench, tmp_path: Path) -> None:
    control = control_of(bench, appended(bench, "raise SystemExit(3)\n", tmp_path, "same_inputs"))
    assert not control.is_won


def test_a_checkout_takes_what_it_should_not(bench: Bench, cheats: dict[str, RedTeamPatch]) -> None:
    """Path escapes get past git and patch into the hands of the third tool."""
    escape = control_of(bench, cheats["path-escape"], arguments=("apply",))
    link = control_of(bench, cheats["symbolic-link"], arguments=("apply",))
    assert (escape.ratio, escape.note) == (1.0, "applied by_hand")
    assert (link.ratio, link.note) == (1.0, "applied with_git")


@pytest.mark.long
def test_a_careless_tool_takes_every_cheat_that_needs_one(
    bench: Bench, cheats: dict[str, RedTeamPatch]
) -> None:
    refused = [
        patch.path.name
        for patch in cheats.values()
        if needs_checkout(patch) and control_of(bench, patch, arguments=("apply",)).ratio != 1.0
    ]
    assert refused == []


def test_a_diff_that_does_not_apply_is_a_failed_control(bench: Bench, tmp_path: Path) -> None:
    patch = appended(bench, "# A comment.\n", tmp_path, "same_inputs")
    broken = patch.diff.replace(b"Shape suffixes", b"Other suffixes")
    path = tmp_path / "02-broken.diff"
    path.write_bytes(patch.header + broken)
    control = control_of(bench, read_patch_file(path))
    assert (control.ratio, control.note[:17]) == (0.0, "it does not apply")


def test_only_known_harnesses_run() -> None:
    with pytest.raises(ValueError, match="no naive harness 'worker'"):
        run_control("worker", {})
    assert {"same_inputs", "interleaved", "checkout"} <= set(harness_names())
    assert not PARTS & set(harness_names())


def test_winning_means_twice_as_fast() -> None:
    assert Control("same_inputs", 2.0, "").is_won
    assert not Control("same_inputs", 1.99, "").is_won
