"""Patches that have gone stale are named, and cut again where their lines have moved."""

from pathlib import Path

import pytest

from benchmarks.patch.patches import apply_patch, diff_trees, parse_patch
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, read_tree, shipped_tree, write_tree
from benchmarks.redteam import __main__ as command
from benchmarks.redteam import recut as recutting
from benchmarks.redteam import rot
from benchmarks.redteam.patch_file import PatchFileError, RedTeamPatch, read_patch_file
from benchmarks.redteam.recut import RecutFailed, recut
from benchmarks.redteam.rot import stale, staleness

pytestmark = pytest.mark.slow

SEAM = "model/layers/__init__.py"
HEADER = """# class: 5 caching
# suite: moe_forward tiny
# naive: same_inputs
# wins-by: words
# expect: {expect}
# seam: model/layers/__init__.py
# why: words
"""


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def shipped(store: BlobStore) -> Tree:
    return shipped_tree(store)


def text(tree: Tree, store: BlobStore) -> str:
    entry = tree.get(SEAM)
    assert entry is not None
    return store.get(entry.blob).decode()


def changed(tree: Tree, store: BlobStore, content: str) -> Tree:
    blob = store.put(content.encode())
    return Tree(tuple(TreeEntry(e.path, e.mode, blob) if e.path == SEAM else e for e in tree.entries))


def cut(folder: Path, base: Tree, other: Tree, store: BlobStore, expect: str = "no_gain") -> RedTeamPatch:
    path = folder / "07-some-cheat.diff"
    path.write_text(HEADER.format(expect=expect) + diff_trees(base, other, store))
    return read_patch_file(path)


def test_no_patch_of_this_repository_is_stale() -> None:
    assert [f"{found.path}: {found.reason}" for found in stale()] == []


def test_a_patch_that_does_not_apply_is_named_with_its_line(
    tmp_path: Path, shipped: Tree, store: BlobStore
) -> None:
    older = changed(shipped, store, "# an older first line\n" + text(shipped, store))
    patch = cut(tmp_path, older, changed(shipped, store, text(shipped, store) + "x = 1\n"), store)
    assert f"{SEAM}:1" in staleness(patch, shipped, store)


def test_a_patch_that_applies_is_not_stale(tmp_path: Path, shipped: Tree, store: BlobStore) -> None:
    patch = cut(tmp_path, shipped, changed(shipped, store, text(shipped, store) + "x = 1\n"), store)
    assert staleness(patch, shipped, store) == ""


def test_a_patch_that_should_be_refused_and_no_longer_is_has_to_be_looked_at(
    tmp_path: Path, shipped: Tree, store: BlobStore
) -> None:
    other = changed(shipped, store, text(shipped, store) + "x = 1\n")
    patch = cut(tmp_path, shipped, other, store, expect="patch_rejected")
    assert "no longer refused" in staleness(patch, shipped, store)


def test_an_unknown_harness_is_an_error(tmp_path: Path, shipped: Tree, store: BlobStore) -> None:
    path = tmp_path / "07-some-cheat.diff"
    header = HEADER.format(expect="no_gain").replace("same_inputs", "crystal_ball")
    path.write_text(
        header + diff_trees(shipped, changed(shipped, store, text(shipped, store) + "x = 1\n"), store)
    )
    with pytest.raises(PatchFileError, match="crystal_ball"):
        staleness(read_patch_file(path), shipped, store)


def test_check_says_how_to_repair_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "stale", lambda: [rot.Stale(Path("examples/patches/slower.diff"), "moved")])
    assert command.main(["check"]) == 1
    printed = capsys.readouterr().out
    assert "examples/patches/slower.diff: moved" in printed
    assert "recut NAME" in printed


def test_check_takes_no_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "stale", list)
    with pytest.raises(SystemExit, match="2"):
        command.main(["check", "slower"])
    assert "unrecognized arguments: slower" in capsys.readouterr().err


def test_recut_finds_lines_that_have_moved_and_keeps_the_header(
    tmp_path: Path, shipped: Tree, store: BlobStore
) -> None:
    patch = cut(tmp_path, shipped, changed(shipped, store, text(shipped, store) + "x = 1\n"), store)
    moved = changed(shipped, store, '"""A new beginning."""\n\n' + text(shipped, store))
    write_tree(moved, store, tmp_path / "moved")
    assert staleness(patch, moved, store) != ""

    assert recut(str(patch.path), against=tmp_path / "moved") == patch.path
    again = read_patch_file(patch.path)
    assert again.header == patch.header
    assert staleness(again, moved, store) == ""
    result = apply_patch(moved, parse_patch(again.diff), store)
    assert text(result, store) == text(moved, store) + "x = 1\n"


def test_what_conflicts_stays_in_the_folder_until_it_is_resolved(
    tmp_path: Path, shipped: Tree, store: BlobStore
) -> None:
    lines = text(shipped, store).splitlines(keepends=True)
    patch = cut(
        tmp_path, shipped, changed(shipped, store, "".join([*lines[:-1], "Z nothing.\n", lines[-1]])), store
    )
    other = changed(shipped, store, "wholly = 'different'\n")
    write_tree(other, store, tmp_path / "other")
    work = tmp_path / "work"
    work.mkdir()
    before = patch.path.read_bytes()

    with pytest.raises(RecutFailed, match="has conflicts"):
        recut(str(patch.path), against=tmp_path / "other", folder=work)
    assert patch.path.read_bytes() == before
    with pytest.raises(RecutFailed, match="still has conflict markers"):
        recut(str(patch.path), against=tmp_path / "other", folder=work, resume=True)

    mended = work / "new" / SEAM
    mended.chmod(0o644)
    mended.write_text("wholly = 'different'\nx = 1\n")
    recut(str(patch.path), against=tmp_path / "other", folder=work, resume=True)
    assert staleness(read_patch_file(patch.path), other, store) == ""


def test_recut_leaves_patches_alone_that_are_meant_to_be_unreadable() -> None:
    with pytest.raises(RecutFailed, match="edit it by hand"):
        recut("symbolic-link")
    with pytest.raises(RecutFailed, match=r"touches conftest\.py"):
        recut("conftest")


def test_recut_needs_a_patch_and_a_folder_to_resume_from() -> None:
    with pytest.raises(RecutFailed, match="no patch 'nobody'"):
        recut("nobody")
    with pytest.raises(RecutFailed, match="needs the --folder"):
        recut("cache-by-id", resume=True)


def test_recutting_an_example_uses_the_demos_base(tmp_path: Path) -> None:
    path = rot.EXAMPLES / "patches" / "slower.diff"
    before = path.read_bytes()
    assert recutting._base_diff(path, has_header=False) == rot.EXAMPLE_BASES[0][0]
    assert recutting._base_diff(rot.EXAMPLE_BASES[0][0], has_header=False) is None
    assert path.read_bytes() == before


def test_recut_by_command(
    tmp_path: Path, shipped: Tree, store: BlobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = cut(tmp_path, shipped, changed(shipped, store, text(shipped, store) + "x = 1\n"), store)
    write_tree(shipped, store, tmp_path / "tree")
    assert command.main(["recut", str(patch.path), "--against", str(tmp_path / "tree")]) == 0
    assert "was cut again" in capsys.readouterr().out
    assert command.main(["recut", "nobody"]) == 2
    assert "no patch 'nobody'" in capsys.readouterr().err


def test_recut_trees_are_read_back_as_they_were_written(
    tmp_path: Path, shipped: Tree, store: BlobStore
) -> None:
    write_tree(shipped, store, tmp_path / "tree")
    assert read_tree(tmp_path / "tree", store).hash == shipped.hash
