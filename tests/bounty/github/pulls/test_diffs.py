"""Diffs between trees: whatever the files are, the patch turns the one into the other, to the byte."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import Policy, PolicyViolation, load_policy
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from bounty.github.pulls.diffs import write_diff
from bounty.github.pulls.line_edits import edits

FILE = st.lists(
    st.sampled_from(["a", "b", "c", "", "++ x", "-- y", "@@", "\\ No newline", "\r"]), max_size=30
)
TEXT = st.tuples(FILE, st.booleans()).map(lambda made: "\n".join(made[0]) + ("\n" if made[1] else ""))
FILES = st.dictionaries(st.sampled_from(["model/a.py", "model/b.py", "model/c/d.py"]), TEXT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore(tmp_path_factory.mktemp("blobs"))


def tree(files: dict[str, str], store: BlobStore, mode: int = 0o644) -> Tree:
    return Tree(
        tuple(sorted(TreeEntry(path, mode, store.put(text.encode())) for path, text in files.items()))
    )


def diff(old: Tree, new: Tree, store: BlobStore, policy: Policy | None = None) -> str:
    return write_diff(old, new, store, policy or load_policy())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES, FILES)
def test_the_diff_applied_is_the_other_tree(
    store: BlobStore, old: dict[str, str], new: dict[str, str]
) -> None:
    staged = StagedBlobs(store)
    before, after = tree(old, staged), tree(new, staged)
    made = diff(before, after, staged)
    if before.hash == after.hash:
        assert made == ""
        return
    assert apply_patch(before, parse_patch(made), staged).hash == after.hash


@settings(max_examples=300, deadline=None)
@given(FILE, FILE, st.sampled_from([0, 1, 3, 1000]))
def test_edits_turn_one_list_into_the_other(old: list[str], new: list[str], most: int) -> None:
    before, after = [text.encode() for text in old], [text.encode() for text in new]
    made, at = [], 0
    for edit in edits(before, after, most=most):
        assert edit.start >= at and (edit.start, edit.new_start) != (edit.end, edit.new_end)
        made += before[at : edit.start] + after[edit.new_start : edit.new_end]
        at = edit.end
    assert made + before[at:] == after


def test_the_edit_is_the_smallest_one() -> None:
    found = edits([b"a", b"b", b"c", b"a", b"b", b"b", b"a"], [b"c", b"b", b"a", b"b", b"a", b"c"])
    assert sum(edit.end - edit.start + edit.new_end - edit.new_start for edit in found) == 5


def test_changes_far_apart_are_two_hunks_with_three_lines_around_each(store: BlobStore) -> None:
    lines = [f"line {number}" for number in range(40)]
    old = "\n".join(lines) + "\n"
    new = old.replace("line 10\n", "ten\n").replace("line 30\n", "")
    made = diff(tree({"model/a.py": old}, store), tree({"model/a.py": new}, store), store)
    assert made.count("@@ -") == 2 and "@@ -8,7 +8,7 @@\n line 7\n" in made and "@@ -28,7 +28,6 @@\n" in made


def test_an_edit_beyond_the_bound_replaces_the_whole(store: BlobStore) -> None:
    """Twenty thousand lines in two orders have no small edit; none is looked for beyond the bound."""
    old = [b"%d" % (number * 7919 % 20_011) for number in range(20_000)]
    (found,) = edits(old, old[::-1])
    assert (found.start, found.end) == (0, 20_000)


def test_too_many_files_are_refused_before_any_is_compared(store: BlobStore) -> None:
    new = tree({f"model/f{number}.py": "x = 1\n" for number in range(65)}, store)
    with pytest.raises(PolicyViolation, match="touches 65 files, the policy allows 64"):
        diff(tree({}, store), new, store)


def test_a_change_that_is_too_long_is_refused(store: BlobStore) -> None:
    new = tree({"model/a.py": "x = 1\n" * 50_000}, store)
    with pytest.raises(PolicyViolation, match="more than the 262144 bytes"):
        diff(tree({}, store), new, store)


def test_a_mode_and_what_is_no_text_are_refused(store: BlobStore, tmp_path: Path) -> None:
    old = tree({"model/a.py": "x = 1\n"}, store)
    with pytest.raises(PatchError, match="changes its mode"):
        diff(old, tree({"model/a.py": "x = 1\n"}, store, 0o755), store)
    for data in (b"\0", b"\xff"):
        new = Tree((TreeEntry("model/a.py", 0o644, store.put(data)),))
        with pytest.raises(PatchError, match="only"):
            diff(old, new, store)
