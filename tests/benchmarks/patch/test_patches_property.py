"""Whatever the trees, a diff between them leads from one to the other; whatever the text, only PatchError is raised."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from benchmarks.patch.patches import PatchError, apply_patch, diff_trees, normalise, parse_patch
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from tests.needs import needs_git

pytestmark = pytest.mark.slow

PATHS = ["model/a.py", "model/b.py", "model/deep/er/c.cpp", "model/d-e+f_g.h"]
LINE = st.text(alphabet=st.sampled_from("ab -+\\@\r\t\u00e9\u2028\x0c"), max_size=6)
TEXT = st.builds(
    lambda lines, ends: "\n".join(lines) + ("\n" if ends and lines else ""),
    st.lists(LINE, max_size=12),
    st.booleans(),
)
FILES = st.dictionaries(st.sampled_from(PATHS), TEXT, max_size=4)


class Memory(BlobStore):
    """A blob store in memory: hypothesis makes thousands of blobs."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        import hashlib

        name = hashlib.sha256(data).hexdigest()
        self.blobs[name] = data
        return name

    def get(self, sha256: str) -> bytes:
        return self.blobs[sha256]


def tree_of(files: dict[str, str], store: BlobStore) -> Tree:
    return Tree(
        tuple(TreeEntry(path, 0o644, store.put(text.encode())) for path, text in sorted(files.items()))
    )


@given(FILES, FILES)
@settings(max_examples=300, deadline=None)
@example({"model/a.py": "a"}, {"model/a.py": "a\n"})
@example({"model/a.py": ""}, {})
@example({"model/a.py": "--- a\n+++ b\n@@ -1 +1 @@\n"}, {"model/a.py": "@@ -1 +1 @@\n-- a"})
def test_own_diffs_apply_to_exactly_the_target(before: dict[str, str], after: dict[str, str]) -> None:
    store = Memory()
    base, target = tree_of(before, store), tree_of(after, store)
    assume(base != target)
    patch = parse_patch(diff_trees(base, target, store))
    assert apply_patch(base, patch, store) == target
    again = parse_patch(normalise(patch))
    assert again.files == patch.files
    assert apply_patch(base, again, store) == target


def git_diff(before: dict[str, str], after: dict[str, str], context: int) -> bytes:
    """What `git diff` writes between two folders inside a new repository."""
    folder = Path(tempfile.mkdtemp())
    try:
        env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "GIT_CONFIG_GLOBAL": "/dev/null"}

        def git(*arguments: str) -> bytes:
            argv = ["git", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false", *arguments]
            return subprocess.run(argv, cwd=folder, env=env, capture_output=True, check=True).stdout

        git("init", "-q")
        for files in (before, after):
            shutil.rmtree(folder / "model", ignore_errors=True)
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(text.encode())
            git("add", "-A", "-f")
            if files is before:
                tree = git("write-tree").decode().strip()
        return git("diff", "--no-renames", "--text", f"-U{context}", "--cached", tree)
    finally:
        shutil.rmtree(folder)


@needs_git
@given(FILES, FILES, st.integers(0, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_git_diffs_apply_to_exactly_the_target(
    before: dict[str, str], after: dict[str, str], context: int
) -> None:
    store = Memory()
    base, target = tree_of(before, store), tree_of(after, store)
    assume(base != target)
    patch = parse_patch(git_diff(before, after, context))
    assert apply_patch(base, patch, store) == target


SEED = (
    b"diff --git a/model/a.py b/model/a.py\nindex 1111..2222 100644\n--- a/model/a.py\n+++ b/model/a.py\n"
    b"@@ -1,3 +1,3 @@ def f():\n one\n-two\n+TWO\n three\n\\ No newline at end of file\n"
    b"diff --git a/model/n.py b/model/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/model/n.py\n@@ -0,0 +1 @@\n+x\n"
    b"diff --git a/model/z.py b/model/z.py\ndeleted file mode 100644\n--- a/model/z.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-z\n"
)
FILES_OF_SEED = {"model/a.py": "one\ntwo\nthree", "model/z.py": "z\n"}
PIECES = st.sampled_from(
    [
        b"",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"-",
        b"+",
        b"@@ ",
        b"\\ ",
        b"..",
        b'"',
        b"/",
        b"\xff",
        b"0",
        b"9999999999",
        b"a/",
        b"diff --git ",
    ]
)


@given(st.lists(st.tuples(st.integers(0, len(SEED)), st.integers(0, 9), PIECES), min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_mutations_raise_nothing_but_patch_error(edits: list[tuple[int, int, bytes]]) -> None:
    data = SEED
    for at, removed, inserted in edits:
        data = data[:at] + inserted + data[at + removed :]
    store = Memory()
    base = tree_of(FILES_OF_SEED, store)
    try:
        patch = parse_patch(data)
        result = apply_patch(base, patch, store)
    except PatchError as error:
        assert error.code
        assert error.message
    else:
        assert parse_patch(normalise(patch)).files == patch.files
        assert result != base


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
@settings(max_examples=300, deadline=None)
def test_any_text_raises_nothing_but_patch_error(data: bytes | str) -> None:
    with pytest.raises(PatchError):
        parse_patch(data)


def test_the_unedited_seed_applies() -> None:
    store = Memory()
    result = apply_patch(tree_of(FILES_OF_SEED, store), parse_patch(SEED), store)
    assert result == tree_of({"model/a.py": "one\nTWO\nthree", "model/n.py": "x\n"}, store)


@needs_git
@given(st.lists(LINE, min_size=1, max_size=400))
@settings(max_examples=20, deadline=None)
def test_a_git_apply_agrees_on_our_normal_form(lines: list[str]) -> None:
    """git itself reads what `normalise` writes, with the same result."""
    before, after = {"model/a.py": "\n".join(lines)}, {"model/a.py": "\n".join(reversed(lines)) + "\nend\n"}
    store = Memory()
    base, target = tree_of(before, store), tree_of(after, store)
    text = normalise(parse_patch(diff_trees(base, target, store)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model/a.py"
        file.parent.mkdir()
        file.write_bytes(before["model/a.py"].encode())
        subprocess.run(
            ["git", "apply", "-"], cwd=folder, input=text.encode(), check=True, capture_output=True
        )
        assert file.read_bytes() == after["model/a.py"].encode()
