"""Trees are exact: one hash per content, nothing ambiguous inside."""

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from benchmarks.patch.paths import UnsafePathError, check_path
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, TreeError, read_tree, shipped_tree, write_tree

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def make(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_hash_is_the_documented_one() -> None:
    tree = Tree((TreeEntry("model/a.py", 0o644, A), TreeEntry("model/b.py", 0o755, B)))
    text = f"644 {A} model/a.py\n755 {B} model/b.py\n"
    assert tree.hash == hashlib.sha256(text.encode()).hexdigest()


def test_written_tree_reads_back_equal_and_read_only(tmp_path: Path, store: BlobStore) -> None:
    make(tmp_path / "src", {"model/__init__.py": b"", "model/k/x.cpp": b"int x;\r\n", "model/run.py": b"1"})
    (tmp_path / "src/model/run.py").chmod(0o755)
    tree = read_tree(tmp_path / "src", store)
    write_tree(tree, store, tmp_path / "out")
    assert read_tree(tmp_path / "out", store) == tree
    modes = {
        entry.path: stat.S_IMODE((tmp_path / "out" / entry.path).stat().st_mode) for entry in tree.entries
    }
    assert modes == {"model/__init__.py": 0o444, "model/k/x.cpp": 0o444, "model/run.py": 0o555}
    shutil.rmtree(tmp_path / "out")


def test_caches_are_left_out(tmp_path: Path, store: BlobStore) -> None:
    make(
        tmp_path,
        {"model/a.py": b"a", "model/__pycache__/a.pyc": b"x", "model/old.pyc": b"x", "other/z.py": b""},
    )
    assert [entry.path for entry in read_tree(tmp_path, store).entries] == ["model/a.py"]


def test_writing_into_a_used_folder_is_refused(tmp_path: Path, store: BlobStore) -> None:
    make(tmp_path, {"model/a.py": b"a"})
    tree = read_tree(tmp_path, store)
    with pytest.raises(TreeError) as error:
        write_tree(tree, store, tmp_path)
    assert error.value.code == "not_empty"


@pytest.mark.parametrize("name", ["link.py", "folder"])
def test_symlinks_are_refused(tmp_path: Path, store: BlobStore, name: str) -> None:
    make(tmp_path, {"model/a.py": b"a"})
    (tmp_path / "model" / name).symlink_to("/etc" if name == "folder" else "a.py")
    with pytest.raises(TreeError) as error:
        read_tree(tmp_path, store)
    assert error.value.code == "symlink"


def test_a_symlinked_top_is_refused(tmp_path: Path, store: BlobStore) -> None:
    make(tmp_path / "real", {"model/a.py": b"a"})
    (tmp_path / "model").symlink_to(tmp_path / "real/model")
    with pytest.raises(TreeError) as error:
        read_tree(tmp_path, store)
    assert error.value.code == "missing_folder"


def test_a_pipe_is_refused_without_hanging(tmp_path: Path, store: BlobStore) -> None:
    make(tmp_path, {"model/a.py": b"a"})
    os.mkfifo(tmp_path / "model/pipe.py")
    with pytest.raises(TreeError) as error:
        read_tree(tmp_path, store)
    assert error.value.code == "special_file"


def test_a_huge_file_is_refused(tmp_path: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.patch.trees.MAX_FILE_BYTES", 10)
    make(tmp_path, {"model/a.py": b"a" * 11})
    with pytest.raises(TreeError) as error:
        read_tree(tmp_path, store)
    assert error.value.code == "too_large"


def test_manifest_round_trip() -> None:
    tree = Tree((TreeEntry("model/a.py", 0o644, A),))
    assert Tree.from_manifest(tree.to_manifest()) == tree


def entry(path: str = "model/a.py", mode: Any = 0o644, blob: Any = A, **more: Any) -> dict[str, Any]:
    return {"path": path, "mode": mode, "blob": blob, **more}


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (None, "bad_manifest"),
        ({}, "bad_manifest"),
        ({"entries": [], "more": 1}, "bad_manifest"),
        ({"entries": [entry(extra=1)]}, "bad_manifest"),
        ({"entries": [entry(mode=True)]}, "bad_manifest"),
        ({"entries": [entry(mode="644")]}, "bad_manifest"),
        ({"entries": [entry(blob=A[:-1])]}, "bad_manifest"),
        ({"entries": [entry(blob=A.upper())]}, "bad_manifest"),
        ({"entries": [entry(mode=0o777)]}, "bad_mode"),
        ({"entries": [entry(mode=0o120000)]}, "bad_mode"),
        ({"entries": [entry("model/b.py"), entry("model/a.py")]}, "bad_manifest"),
        ({"entries": [entry(), entry()]}, "bad_manifest"),
        ({"entries": [entry("../a.py")]}, "path_escape"),
        ({"entries": [entry("/model/a.py")]}, "path_escape"),
        ({"entries": [entry("model/A.py"), entry("model/a.py")]}, "case_collision"),
        ({"entries": [entry("model/K/a.py"), entry("model/k/b.py")]}, "case_collision"),
        ({"entries": [entry("model/a"), entry("model/a/b.py")]}, "path_conflict"),
        ({"entries": [entry("model/A"), entry("model/a/b.py")]}, "case_collision"),
    ],
)
def test_ambiguous_manifests_are_refused(manifest: Any, code: str) -> None:
    with pytest.raises(TreeError) as error:
        Tree.from_manifest(manifest)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "unsafe_path"),
        ("..", "path_escape"),
        ("model/../../etc/passwd", "path_escape"),
        ("/etc/passwd", "path_escape"),
        ("C:/x", "path_escape"),
        ("model\\x.py", "path_escape"),
        ("model/\0x.py", "path_escape"),
        ("model//x.py", "unsafe_path"),
        ("model/./x.py", "unsafe_path"),
        ("model/", "unsafe_path"),
        ("model/x.py.", "unsafe_path"),
        ("model/x.py ", "unsafe_path"),
        ("model/x y.py", "unsafe_path"),
        ("model/-x.py", "unsafe_path"),
        ("model/e\u0301.py", "unsafe_path"),
        ("model/\u0435xperts.py", "unsafe_path"),
        ("model/x\u202e.py", "unsafe_path"),
        ("model/\uff0e\uff0e/x.py", "unsafe_path"),
        ("model/x\n.py", "unsafe_path"),
        (".git/config", "unsafe_path"),
        ("model/.GIT/hooks/x", "unsafe_path"),
        ("model/__pycache__/x.py", "unsafe_path"),
        ("m" * 101, "unsafe_path"),
        ("m/" * 130 + "x", "unsafe_path"),
    ],
)
def test_unsafe_paths_are_refused(path: str, code: str) -> None:
    with pytest.raises(UnsafePathError) as error:
        check_path(path)
    assert error.value.code == code


@pytest.mark.parametrize("path", ["model/a.py", "model/.hidden", "README.md", "model/a+b-c_d/x.v2.hpp"])
def test_portable_paths_pass(path: str) -> None:
    assert check_path(path) == path


def test_put_is_idempotent_and_get_is_verified(store: BlobStore) -> None:
    name = store.put(b"a")
    assert name == A == store.put(b"a")
    assert store.has(A)
    assert not store.has(B)
    assert store.get(A) == b"a"
    store.path(A).chmod(0o644)
    store.path(A).write_bytes(b"b")
    with pytest.raises(TreeError) as error:
        store.get(A)
    assert error.value.code == "damaged_blob"
    store.put(b"a")  # heals it
    assert store.get(A) == b"a"


@pytest.mark.parametrize(
    ("name", "code"), [(B, "missing_blob"), ("../../etc/passwd", "bad_blob_name"), ("", "bad_blob_name")]
)
def test_blobs_that_are_not_there(store: BlobStore, name: str, code: str) -> None:
    with pytest.raises(TreeError) as error:
        store.get(name)
    assert error.value.code == code


def test_a_failed_put_leaves_nothing_behind(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(b"a")
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_shipped_tree_is_the_installed_stack(store: BlobStore) -> None:
    tree = shipped_tree(store)
    import model

    assert tree.get("model/__init__.py") is not None
    source = Path(str(model.__file__)).read_bytes()
    assert store.get(tree.get("model/__init__.py").blob) == source  # type: ignore[union-attr]  # checked above
    assert all(item.path.startswith("model/") for item in tree.entries)
