"""Trees of one normal form have one digest; anything that could compute has its own."""

from pathlib import Path

import pytest

from benchmarks.patch.policy import load_policy
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from bounty.code_digest import CPP, MAX_BYTES, NOTES, code_digest

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
        SOURCE.replace("    return", "    'said'\n    return"),
        SOURCE.replace("    return", "    _ = 0\n    return"),
        SOURCE.replace("(x)", "(value)").replace("x * 2", "value * 2"),
    ],
)
def test_what_computes_nothing_does_not_count(store: BlobStore, dressed: str) -> None:
    assert dressed != SOURCE
    assert digest(store, dressed) == digest(store, SOURCE)


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("2", "3"),
        SOURCE.replace("double", "twice"),
        SOURCE.replace("x * 2", "'x * 2'"),
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


@pytest.mark.parametrize("suffix", [".c", ".cc", ".cpp", ".h", ".hpp", ".inl", ".cu", ".cuh"])
def test_cpp_files_of_every_type_that_the_policy_allows_count_in_their_normal_form(
    store: BlobStore, suffix: str
) -> None:
    assert suffix in load_policy().file_types
    path = f"model/k{suffix}"
    assert digest(store, "int a;  // b\n", path) == digest(store, "int c;\n", path)
    assert digest(store, "int a;\n", path) != digest(store, "int a, c;\n", path)


def test_every_file_type_of_the_policy_is_code_or_notes_or_data() -> None:
    assert set(load_policy().file_types) == {".py", ".toml"} | CPP | NOTES


def test_notes_do_not_count(store: BlobStore) -> None:
    """One more line in `model/NOTES.md` would make another candidate, and give another draw."""
    code = TreeEntry("model/a.py", 0o644, store.put(SOURCE.encode()))

    def with_notes(text: str) -> str:
        notes = TreeEntry("model/NOTES.md", 0o644, store.put(text.encode()))
        return code_digest(Tree((notes, code)), store)

    assert with_notes("one") == with_notes("two") == digest(store, SOURCE)


def test_other_files_and_very_large_ones_count_byte_for_byte(store: BlobStore) -> None:
    assert digest(store, "a //  b\n", path="model/k.toml") != digest(store, "a // b\n", path="model/k.toml")
    assert digest(store, "a //  b\n", path="model/k.cpp") == digest(store, "a // b\n", path="model/k.cpp")
    large = "x = 1\n" + "# " + "y" * MAX_BYTES + "\n"
    assert digest(store, large) != digest(store, large + "\n")
