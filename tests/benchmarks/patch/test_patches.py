"""Patches are read strictly and applied exactly; each refusal has its own code."""

from pathlib import Path

import pytest

from benchmarks.patch.patches import Change, PatchError, apply_patch, diff_trees, normalise, parse_patch
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry

BASE = {
    "model/a.py": b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n",
    "model/crlf.py": b"one\r\ntwo\r\nthree\r\n",
    "model/bare.py": b"one\ntwo",
    "model/empty.py": b"",
    "model/run.py": b"#!\n",
}
HEAD = "diff --git a/model/a.py b/model/a.py\nindex 1111111..2222222 100644\n--- a/model/a.py\n+++ b/model/a.py\n"
GOOD = HEAD + "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def base(store: BlobStore) -> Tree:
    return tree_of(BASE, store)


def tree_of(files: dict[str, bytes], store: BlobStore) -> Tree:
    modes = {"model/run.py": 0o755}
    return Tree(
        tuple(TreeEntry(p, modes.get(p, 0o644), store.put(data)) for p, data in sorted(files.items()))
    )


def contents(tree: Tree, store: BlobStore) -> dict[str, bytes]:
    return {entry.path: store.get(entry.blob) for entry in tree.entries}


def code_of(text: str | bytes) -> str:
    with pytest.raises(PatchError) as error:
        parse_patch(text)
    assert error.value.message
    return error.value.code


def test_one_changed_line(base: Tree, store: BlobStore) -> None:
    patch = parse_patch(GOOD)
    assert patch.paths == ("model/a.py",)
    result = contents(apply_patch(base, patch, store), store)
    assert result == {**BASE, "model/a.py": BASE["model/a.py"].replace(b"two", b"TWO")}


def test_several_hunks_and_files_in_any_order(base: Tree, store: BlobStore) -> None:
    text = (
        (
            "diff --git a/model/bare.py b/model/bare.py\n--- a/model/bare.py\n+++ b/model/bare.py\n"
            "@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n+two\n"
        )
        + HEAD
        + "@@ -2 +2,2 @@ def f():\n-two\n+2\n+2b\n@@ -9,2 +10,1 @@\n nine\n-ten\n"
    )
    result = contents(apply_patch(base, parse_patch(text), store), store)
    assert result["model/a.py"] == b"one\n2\n2b\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"
    assert result["model/bare.py"] == b"one\ntwo\n"


def test_plain_unified_diff_with_times(base: Tree, store: BlobStore) -> None:
    text = "--- a/model/a.py\t2025-01-01 00:00:00\n+++ b/model/a.py\t2025-01-01 00:00:01\n@@ -1 +1 @@\n-one\n+1\n"
    assert contents(apply_patch(base, parse_patch(text), store), store)["model/a.py"].startswith(b"1\ntwo\n")


def test_new_and_deleted_files_also_empty_ones(base: Tree, store: BlobStore) -> None:
    text = (
        "diff --git a/model/new.py b/model/new.py\nnew file mode 100755\nindex 0000000..e69de29\n--- /dev/null\n"
        "+++ b/model/new.py\n@@ -0,0 +1,2 @@\n+x\n+y\n\\ No newline at end of file\n"
        "diff --git a/model/blank.py b/model/blank.py\nnew file mode 100644\nindex 0000000..e69de29\n"
        "diff --git a/model/empty.py b/model/empty.py\ndeleted file mode 100644\nindex e69de29..0000000\n"
        "diff --git a/model/bare.py b/model/bare.py\ndeleted file mode 100644\n--- a/model/bare.py\n+++ /dev/null\n"
        "@@ -1,2 +0,0 @@\n-one\n-two\n\\ No newline at end of file\n"
    )
    patch = parse_patch(text)
    assert [file.change for file in patch.files] == [Change.DELETE, Change.ADD, Change.DELETE, Change.ADD]
    result = apply_patch(base, patch, store)
    assert contents(result, store) == {
        "model/a.py": BASE["model/a.py"],
        "model/crlf.py": BASE["model/crlf.py"],
        "model/run.py": BASE["model/run.py"],
        "model/new.py": b"x\ny",
        "model/blank.py": b"",
    }
    assert {e.path: e.mode for e in result.entries}["model/new.py"] == 0o755


def test_carriage_returns_are_content(base: Tree, store: BlobStore) -> None:
    head = "--- a/model/crlf.py\n+++ b/model/crlf.py\n@@ -1,3 +1,3 @@\n"
    patch = parse_patch(head + " one\r\n-two\r\n+2\r\n three\r\n")
    assert contents(apply_patch(base, patch, store), store)["model/crlf.py"] == b"one\r\n2\r\nthree\r\n"
    with pytest.raises(PatchError) as error:
        apply_patch(base, parse_patch(head + " one\n-two\n+2\n three\n"), store)
    assert error.value.code == "does_not_apply"


def test_a_mode_stays_as_it_is(base: Tree, store: BlobStore) -> None:
    patch = parse_patch("--- a/model/run.py\n+++ b/model/run.py\n@@ -1 +1 @@\n-#!\n+#?\n")
    assert {e.path: e.mode for e in apply_patch(base, patch, store).entries}["model/run.py"] == 0o755


def test_a_file_can_lose_all_its_lines_and_stay(base: Tree, store: BlobStore) -> None:
    patch = parse_patch("--- a/model/run.py\n+++ b/model/run.py\n@@ -1 +0,0 @@\n-#!\n")
    assert contents(apply_patch(base, patch, store), store)["model/run.py"] == b""


@pytest.mark.parametrize(
    "hunk",
    [
        "@@ -2,3 +2,3 @@\n one\n-two\n+TWO\n three\n",  # right text, one line off: never searched for
        "@@ -1,3 +1,3 @@\n one\n-Two\n+TWO\n three\n",
        "@@ -1,3 +1,3 @@\n one \n-two\n+TWO\n three\n",
        "@@ -20 +20 @@\n-one\n+1\n",
        "@@ -11,0 +12 @@\n+past the end\n",
        "@@ -1 +1,2 @@\n one\n+1b\n@@ -5 +6 @@\n-FIVE\n+5\n",
        "@@ -10 +10 @@\n-ten\n\\ No newline at end of file\n+10\n",
    ],
)
def test_patches_that_do_not_fit_are_refused(base: Tree, store: BlobStore, hunk: str) -> None:
    patch = parse_patch(HEAD + hunk)
    with pytest.raises(PatchError) as error:
        apply_patch(base, patch, store)
    assert error.value.code == "does_not_apply"
    assert "model/a.py:" in error.value.message


def test_an_insertion_at_the_very_end_fits(base: Tree, store: BlobStore) -> None:
    patch = parse_patch(HEAD + "@@ -10,0 +11 @@\n+eleven\n")
    assert contents(apply_patch(base, patch, store), store)["model/a.py"].endswith(b"ten\neleven\n")


def test_text_after_a_missing_newline_is_refused(base: Tree, store: BlobStore) -> None:
    patch = parse_patch("--- a/model/bare.py\n+++ b/model/bare.py\n@@ -2,0 +3 @@\n+three\n")
    with pytest.raises(PatchError) as error:
        apply_patch(base, patch, store)
    assert error.value.code == "does_not_apply"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("--- /dev/null\n+++ b/model/a.py\n@@ -0,0 +1 @@\n+x\n", "does_not_apply"),
        ("--- a/model/none.py\n+++ b/model/none.py\n@@ -1 +1 @@\n-x\n+y\n", "does_not_apply"),
        ("--- a/model/none.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", "does_not_apply"),
        ("--- a/model/a.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n", "does_not_apply"),
        ("diff --git a/model/a.py b/model/a.py\ndeleted file mode 100644\n", "does_not_apply"),
        ("--- /dev/null\n+++ b/model/A.py\n@@ -0,0 +1 @@\n+x\n", "case_collision"),
        ("--- /dev/null\n+++ b/Model/b.py\n@@ -0,0 +1 @@\n+x\n", "case_collision"),
        ("--- /dev/null\n+++ b/model/a.py/x.py\n@@ -0,0 +1 @@\n+x\n", "path_conflict"),
        ("--- a/model/a.py\n+++ b/model/a.py\n@@ -1 +1 @@\n-one\n+one\n", "no_change"),
    ],
)
def test_patches_that_contradict_the_tree(base: Tree, store: BlobStore, text: str, code: str) -> None:
    with pytest.raises(PatchError) as error:
        apply_patch(base, parse_patch(text), store)
    assert error.value.code == code


def test_a_result_that_is_too_large_is_refused(
    base: Tree, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.patch.patches.MAX_FILE_BYTES", 20)
    with pytest.raises(PatchError) as error:
        apply_patch(base, parse_patch(GOOD), store)
    assert error.value.code == "too_large"


def git(path: str, body: str) -> str:
    return f"diff --git a/{path} b/{path}\n{body}"


HUNK = "@@ -1 +1 @@\n-a\n+b\n"
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "empty"),
    "white space": (" \n\n", "empty"),
    "prose": ("Please make it faster.\n", "malformed"),
    "nul": (GOOD.encode() + b"\0\n", "binary"),
    "not utf-8": (GOOD.encode() + b"\xff\n", "encoding"),
    "surrogates": (GOOD + "\ud800\n", "encoding"),
    "huge": ("x" * (1024 * 1024 + 1), "too_large"),
    "too many files": (
        "".join(git(f"model/f{i}.py", "new file mode 100644\n") for i in range(1001)),
        "too_large",
    ),
    "cut inside a line": (GOOD[:-1], "truncated"),
    "cut inside a hunk": (GOOD.rsplit(" three", 1)[0], "malformed"),
    "binary": (
        git("model/a.bin", "index 1111..2222 100644\nBinary files a/model/a.bin and b/model/a.bin differ\n"),
        "binary",
    ),
    "git binary": (git("model/a.bin", "index 1111..2222 100644\nGIT binary patch\nliteral 0\n"), "binary"),
    "new symlink": (
        git("model/l", "new file mode 120000\n--- /dev/null\n+++ b/model/l\n@@ -0,0 +1 @@\n+/etc\n"),
        "symlink",
    ),
    "changed symlink": (
        git("model/l", f"index 1111..2222 120000\n--- a/model/l\n+++ b/model/l\n{HUNK}"),
        "symlink",
    ),
    "submodule": (
        git("model/s", "new file mode 160000\n--- /dev/null\n+++ b/model/s\n@@ -0,0 +1 @@\n+Subproject\n"),
        "submodule",
    ),
    "submodule log": ("Submodule model/s 1111..2222:\n", "submodule"),
    "mode change": (git("model/a.py", "old mode 100644\nnew mode 100755\n"), "mode_change"),
    "setuid": (git("model/a.py", "new file mode 104755\n"), "mode_change"),
    "two modes": (git("model/a.py", "new file mode 100644\nindex 0000..1111 100755\n"), "mode_change"),
    "rename": (
        git("model/a.py", "similarity index 90%\nrename from model/a.py\nrename to model/b.py\n"),
        "rename",
    ),
    "names differ": (
        f"diff --git a/model/a.py b/model/b.py\n--- a/model/a.py\n+++ b/model/b.py\n{HUNK}",
        "rename",
    ),
    "plain names differ": (f"--- a/model/a.py\n+++ b/model/b.py\n{HUNK}", "rename"),
    "copy": (git("model/a.py", "copy from model/a.py\ncopy to model/b.py\n"), "rename"),
    "combined": ("diff --cc model/a.py\nindex 1111,2222..3333\n", "combined"),
    "combined hunk": (HEAD + "@@@ -1,1 -1,1 +1,1 @@@\n", "combined"),
    "dot dot": (f"--- a/../x.py\n+++ b/../x.py\n{HUNK}", "path_escape"),
    "dot dot in git's line": (git("model/../../x", "new file mode 100644\n"), "path_escape"),
    "absolute": (f"--- /etc/passwd\n+++ /etc/passwd\n{HUNK}", "path_escape"),
    "absolute behind the prefix": (f"--- a//etc/passwd\n+++ b//etc/passwd\n{HUNK}", "path_escape"),
    "backslash": (f"--- a/model\\x.py\n+++ b/model\\x.py\n{HUNK}", "path_escape"),
    "trailing dot": (f"--- a/model/x.py.\n+++ b/model/x.py.\n{HUNK}", "unsafe_path"),
    "homoglyph": (f"--- a/model/\u0435.py\n+++ b/model/\u0435.py\n{HUNK}", "unsafe_path"),
    "quoted": (f'--- "a/model/\\303\\251.py"\n+++ "b/model/\\303\\251.py"\n{HUNK}', "unsafe_path"),
    "quoted in git's line": (
        'diff --git "a/model/\\303.py" "b/model/\\303.py"\nnew file mode 100644\n',
        "unsafe_path",
    ),
    "space": (git("model/x y.py", "new file mode 100644\n"), "unsafe_path"),
    "git folder": (f"--- a/.git/config\n+++ b/.git/config\n{HUNK}", "unsafe_path"),
    "no prefix": (f"--- model/a.py\n+++ model/a.py\n{HUNK}", "bad_prefix"),
    "other prefix": ("diff --git i/model/a.py w/model/a.py\nindex 1111..2222 100644\n", "bad_prefix"),
    "twice": (GOOD + GOOD, "duplicate_file"),
    "delete and add": (
        git("model/a.py", "deleted file mode 100644\n") + git("model/a.py", "new file mode 100644\n"),
        "duplicate_file",
    ),
    "two cases": (
        git("model/a.py", "new file mode 100644\n") + git("model/A.py", "new file mode 100644\n"),
        "case_collision",
    ),
    "crlf everywhere": (GOOD.replace("\n", "\r\n"), "crlf"),
    "crlf in git's line": (GOOD.replace("\n", "\r\n", 1), "crlf"),
    "crlf in a hunk header": (GOOD.replace("@@\n", "@@\r\n"), "crlf"),
    "mail": ("From 1234 Mon Sep 17 00:00:00 2001\n" + GOOD, "malformed"),
    "mail's end": (GOOD + "-- \n2.47.3\n", "malformed"),
    "hunk without file": (HUNK, "malformed"),
    "no hunk": (HEAD, "malformed"),
    "no plus line": ("--- a/model/a.py\n@@ -1 +1 @@\n-a\n+b\n", "malformed"),
    "git line alone": ("diff --git a/model/a.py b/model/a.py\n", "malformed"),
    "git line with index alone": (git("model/a.py", "index 1111..2222 100644\n"), "malformed"),
    "both null": ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n", "malformed"),
    "other name than git's line": (
        git("model/b.py", f"--- a/model/a.py\n+++ b/model/a.py\n{HUNK}"),
        "malformed",
    ),
    "new but not from null": (
        git("model/a.py", f"new file mode 100644\n--- a/model/a.py\n+++ b/model/a.py\n{HUNK}"),
        "malformed",
    ),
    "null without mode line": (
        git("model/a.py", "--- /dev/null\n+++ b/model/a.py\n@@ -0,0 +1 @@\n+x\n"),
        "malformed",
    ),
    "new twice": (git("model/a.py", "new file mode 100644\nnew file mode 100644\n"), "malformed"),
    "new with context": ("--- /dev/null\n+++ b/model/a.py\n@@ -1 +1,2 @@\n x\n+y\n", "malformed"),
    "deleted with rest": ("--- a/model/a.py\n+++ /dev/null\n@@ -1,2 +1 @@\n-x\n y\n", "malformed"),
    "too few lines": (HEAD + "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n", "malformed"),
    "too many lines": (GOOD + " four\n", "malformed"),
    "wrong counts": (HEAD + "@@ -1,1 +1,3 @@\n one\n-two\n+TWO\n three\n", "malformed"),
    "no change": (HEAD + "@@ -1,2 +1,2 @@\n one\n two\n", "malformed"),
    "line zero": (HEAD + "@@ -0,1 +1,1 @@\n-one\n+1\n", "malformed"),
    "minus line": (HEAD + "@@ -1,-1 +1,1 @@\n-one\n+1\n", "malformed"),
    "padded number": (HEAD + "@@ -01 +1 @@\n-one\n+1\n", "malformed"),
    "giant number": (HEAD + "@@ -99999999999 +1 @@\n-one\n+1\n", "malformed"),
    "positions disagree": (HEAD + "@@ -1 +2 @@\n-one\n+1\n", "malformed"),
    "hunks out of order": (HEAD + "@@ -5 +5 @@\n-five\n+5\n@@ -1 +1 @@\n-one\n+1\n", "malformed"),
    "hunks overlap": (HEAD + "@@ -1,2 +1,2 @@\n-one\n+1\n two\n@@ -2 +2 @@\n-two\n+2\n", "malformed"),
    "stripped context": (HEAD + "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n\n", "malformed"),
    "marker first": (HEAD + "@@ -1 +1 @@\n\\ No newline at end of file\n-one\n+1\n", "malformed"),
    "marker twice": (HEAD + "@@ -1 +1 @@\n-one\n\\ No newline\n\\ No newline\n+1\n", "malformed"),
    "line after the last": (HEAD + "@@ -1,2 +1,2 @@\n one\n\\ No newline\n-two\n+2\n", "malformed"),
    "hunk after the last": (
        HEAD + "@@ -1 +1 @@\n-one\n+1\n\\ No newline\n@@ -3 +3 @@\n-three\n+3\n",
        "malformed",
    ),
    "empty line between": (GOOD + "\n" + git("model/b.py", "new file mode 100644\n"), "malformed"),
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode(), "byte order mark"),
        (GOOD.encode("utf-16"), "byte order mark"),
        (b"\x1b[1m" + GOOD.encode(), "--no-color"),
        (b" model/a.py | 2 +-\n", "is not part of a unified diff"),
    ],
    ids=["BOM", "UTF-16", "coloured", "--stat"],
)
def test_what_shells_and_settings_do_to_a_diff_is_named(text: bytes, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        parse_patch(text)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_their_own_codes(name: str) -> None:
    text, code = REFUSED[name]
    assert code_of(text) == code


def test_a_refusal_names_the_line() -> None:
    with pytest.raises(PatchError, match=r"^Line 5 of the patch: "):
        parse_patch(HEAD + "@@ nonsense\n")


def test_blank_lines_at_the_end_say_nothing() -> None:
    assert parse_patch(GOOD + "\n\n").files == parse_patch(GOOD).files


def test_normal_form_is_the_same_for_different_dress() -> None:
    bare = GOOD.replace("index 1111111..2222222 100644\n", "").replace(
        "@@ -1,3 +1,3 @@", "@@ -1,3 +1,3 @@ class X:"
    )
    plain = GOOD.split("100644\n")[1]
    assert parse_patch(GOOD).digest == parse_patch(bare).digest == parse_patch(plain).digest
    assert parse_patch(GOOD).digest != parse_patch(GOOD.replace("TWO", "2")).digest


def test_normal_form_reads_back_equal() -> None:
    text = GOOD + git(
        "model/n.py",
        "new file mode 100755\n--- /dev/null\n+++ b/model/n.py\n@@ -0,0 +1 @@\n+x\n\\ No newline\n",
    )
    text += git("model/e.py", "new file mode 100644\n") + git("model/z.py", "deleted file mode 100755\n")
    patch = parse_patch(text)
    assert parse_patch(normalise(patch)).files == patch.files
    assert normalise(parse_patch(normalise(patch))) == normalise(patch)


def test_diff_of_equal_trees_is_empty(base: Tree, store: BlobStore) -> None:
    with pytest.raises(PatchError) as error:
        diff_trees(base, base, store)
    assert error.value.code == "empty"


def test_diff_of_modes_and_binaries_is_refused(base: Tree, store: BlobStore) -> None:
    other = Tree(tuple(TreeEntry(e.path, 0o755, e.blob) for e in base.entries))
    binary = tree_of({**BASE, "model/x.py": b"\0"}, store)
    for tree, code in ((other, "mode_change"), (binary, "binary")):
        with pytest.raises(PatchError) as error:
            diff_trees(base, tree, store)
        assert error.value.code == code
