"""Reads a folder at a commit of a bare repository into a tree, by `git ls-tree` and `git cat-file` alone."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.patch.blobs import BlobStore, TreeError
from benchmarks.patch.paths import Refusal, check_path
from benchmarks.patch.trees import EXECUTABLE, MAX_FILES, PLAIN, Tree, TreeEntry
from bounty.github.repositories.git import Git, LimitReached, Limits
from bounty.github.repositories.mirrors import MAX_BLOB_BYTES

MAX_FOLDER_BYTES = 64 * 1024 * 1024
MAX_LISTING_BYTES = 32 * 1024 * 1024
MODES = {"100644": PLAIN, "100755": EXECUTABLE}
REFUSED_MODES = {
    "120000": ("symlink", "is a symbolic link: replace it by the file itself"),
    "160000": ("submodule", "is a submodule: put its files into the repository itself"),
}
TREE_FOLDER = "model"


class FolderRefused(Refusal):
    """A folder that cannot be a lineage's tree. `code` names the rule, the message what to do."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of the folder: its path in the lineage's tree, its mode, and git's name of its content."""

    path: str
    mode: int
    object: str


def read_folder(repository: Path, *, commit: str, folder: str, store: BlobStore) -> Tree:
    """The tree of `folder` at `commit`, its files put into `store`. Raises FolderRefused, GitError."""
    git = Git(repository)
    listed = _list(git, commit, folder)
    contents = _contents(git, listed)
    entries = sorted(TreeEntry(file.path, file.mode, store.put(contents[file.object])) for file in listed)
    try:
        return Tree(tuple(entries))
    except TreeError as error:
        raise FolderRefused(error.code, error.message) from None


def _list(git: Git, commit: str, folder: str) -> list[Listed]:
    found = git.run("cat-file", "--batch-check", given=f"{commit}:{folder}\n".encode())[1].split()
    if len(found) != 3 or found[1] != b"tree":
        raise FolderRefused(
            "missing_folder",
            f"The branch has no folder {folder}. Bind the lineage to the folder that it has.",
        )
    rows = _rows(git.folder, found[0].decode("ascii"))
    if len(rows) > MAX_FILES:
        raise FolderRefused(
            "too_large", f"The folder has {len(rows)} files; a tree holds at most {MAX_FILES}. Remove some."
        )
    return [_listed(row, folder) for row in rows]


def _rows(repository: Path, tree: str) -> list[bytes]:
    """The lines of `ls-tree`, of which a few objects can make billions: a folder that holds itself ten times, and so on."""
    git = Git(repository, limits=Limits(file_bytes=MAX_LISTING_BYTES))
    try:
        return git.run("ls-tree", "-r", "-z", "--full-tree", tree)[1].split(b"\0")[:-1]
    except LimitReached:
        raise FolderRefused(
            "too_large",
            f"The folder has far more than the {MAX_FILES} files that a tree may have. Remove some.",
        ) from None


def _listed(row: bytes, folder: str) -> Listed:
    """One line of `ls-tree -z`: `MODE KIND OBJECT<tab>PATH`, the path as its bytes are."""
    facts, _, name = row.partition(b"\t")
    mode, _, object_name = facts.decode("ascii").split(" ")
    path = name.decode("utf-8", "backslashreplace")
    shown = f"{folder}/{path if path.isascii() and path.isprintable() else ascii(path)}"[:200]
    if mode in REFUSED_MODES:
        code, what = REFUSED_MODES[mode]
        raise FolderRefused(code, f"{shown} {what}.")
    if mode not in MODES:
        raise FolderRefused("bad_mode", f"{shown} has mode {mode}: only 100644 and 100755 are allowed.")
    try:
        return Listed(check_path(f"{TREE_FOLDER}/{path}"), MODES[mode], object_name)
    except Refusal as error:
        raise FolderRefused(error.code, error.message) from None


def _contents(git: Git, listed: list[Listed]) -> dict[str, bytes]:
    """Git's name of each content -> its bytes. Sizes are checked before anything is read."""
    paths = {file.object: file.path for file in reversed(listed)}
    asked = "".join(f"{name}\n" for name in paths).encode()
    total = 0
    for line in git.run("cat-file", "--batch-check", given=asked)[1].decode("ascii").splitlines():
        name, *rest = line.split(" ")
        size = int(rest[1]) if len(rest) == 2 else MAX_BLOB_BYTES + 1  # not fetched: it is above the limit
        total += size
        if size > MAX_BLOB_BYTES:
            raise FolderRefused(
                "too_large",
                f"{paths[name]} is larger than {MAX_BLOB_BYTES} bytes: trees hold source, not data.",
            )
    if total > MAX_FOLDER_BYTES:
        raise FolderRefused(
            "too_large", f"The folder's files have {total} bytes; at most {MAX_FOLDER_BYTES} are taken."
        )
    return _split(git.run("cat-file", "--batch", given=asked)[1])


def _split(answer: bytes) -> dict[str, bytes]:
    """The answer of `cat-file --batch`: for each object `NAME blob SIZE`, a newline, its bytes, a newline."""
    contents, at = {}, 0
    while at < len(answer):
        end = answer.index(b"\n", at)
        name, kind, size = answer[at:end].decode("ascii").split(" ")
        if kind != "blob":
            raise FolderRefused("special_file", f"The object {name} is no file.")
        start = end + 1
        contents[name] = answer[start : start + int(size)]
        at = start + int(size) + 1
    return contents
