"""Trees that differ only in comments and layout have the same digest; any other difference changes it."""

from pathlib import Path

import pytest

from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from bounty.code_digest import MAX_BYTES, code_digest

SOURCE = "import os\n\n\ndef double(x):\n    return x * 2\n"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def digest(store: BlobStore, source: str | bytes, path: str = "model/a.py", mode: int = 0o644) -> str:
    data = source if isinstance(source, bytes) else source.encode()
    return code_digest(Tree((TreeEntry(path, mode, store.put(data)),)), store)


@pytest.mark.parametrize(
    "dressed",
    [
        "# faster!\n" + SOURCE,
        SOURCE.replace("x * 2", "x*2"),
        SOURCE.replace("x * 2", "x * 2  # twice"),
        SOURCE.replace("    return", "  return"),
        SOURCE.replace("\n\n\n", "\n\n\n\n\n"),
        SOURCE.replace("x * 2", "x \\\n        * 2"),
        SOURCE.replace("\n", "\r\n"),
    ],
)
def test_comments_and_layout_do_not_count(store: BlobStore, dressed: str) -> None:
    assert dressed != SOURCE
    assert digest(store, dressed) == digest(store, SOURCE)


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("2", "3"),
        SOURCE.replace("double", "twice"),
        SOURCE.replace("x * 2", "'x * 2'"),
        SOURCE.replace("    return", "    'said'\n    return"),
        SOURCE.replace("    return", "    if x:\n        return"),
        SOURCE + "double(1)\n",
        "",
    ],
)
def test_whatever_could_compute_counts(store: BlobStore, changed: str) -> None:
    assert digest(store, changed) != digest(store, SOURCE)


def test_moving_a_statement_out_of_a_block_counts(store: BlobStore) -> None:
    inside = "if a:\n    b()\n    c()\n"
    assert digest(store, inside) != digest(store, "if a:\n    b()\nc()\n")


def test_strings_keep_their_spaces(store: BlobStore) -> None:
    assert digest(store, "a = 'b  c'\n") != digest(store, "a = 'b c'\n")


def test_path_and_mode_count(store: BlobStore) -> None:
    assert digest(store, SOURCE) != digest(store, SOURCE, path="model/b.py")
    assert digest(store, SOURCE) != digest(store, SOURCE, mode=0o755)


@pytest.mark.parametrize(
    "source", ["def (\n", "'''open\n", "a = $\n", b"\xff\xfe", b"# coding: nonsense\nx = 1\n"]
)
def test_what_is_no_python_counts_byte_for_byte(store: BlobStore, source: str | bytes) -> None:
    data = source if isinstance(source, bytes) else source.encode()
    assert digest(store, data) == digest(store, data)
    assert digest(store, data) != digest(store, data + b"\n\n# more\n\xfe")


def test_other_files_and_very_large_ones_count_byte_for_byte(store: BlobStore) -> None:
    assert digest(store, "a //  b\n", path="model/k.cpp") != digest(store, "a // b\n", path="model/k.cpp")
    large = "x = 1\n" + "# " + "y" * MAX_BYTES + "\n"
    assert digest(store, large) != digest(store, large + "\n")
