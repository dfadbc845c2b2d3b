"""Looks for a tree in a branch's recent history."""

from pathlib import Path

from benchmarks.patch.staged_blobs import StagedBlobs
from bounty.github.repositories.folder_trees import FolderRefused, read_folder
from bounty.github.repositories.git import Git, GitError
from bounty.services.trees import blob_store

MAX_COMMITS = 200
MAX_READ = 30


def has_been_at(repository: Path, *, commit: str, folder: str, tree: str, since: str) -> bool:
    """Whether `folder` was this tree at one of the newest commits of the branch, back to `since` (empty: any).

    Looks at MAX_COMMITS commits of the first-parent line, and reads at most MAX_READ different folders.
    """
    git = Git(repository)
    upto = [f"^{since}"] if since else []
    listed = git.run(
        "rev-list", "--first-parent", f"--max-count={MAX_COMMITS}", "--end-of-options", commit, *upto
    )[1]
    commits = listed.decode("ascii").split()
    asked = "".join(f"{name}:{folder}\n" for name in commits).encode()
    answers = git.run("cat-file", "--batch-check", given=asked)[1].decode("utf-8", "replace").splitlines()
    seen: dict[str, str] = {}
    for name, answer in zip(commits, answers, strict=True):
        if answer.endswith(" missing"):
            continue
        seen.setdefault(answer.split(" ")[0], name)
    return any(_hash_at(repository, name, folder) == tree for name in list(seen.values())[:MAX_READ])


def _hash_at(repository: Path, commit: str, folder: str) -> str:
    try:
        return read_folder(repository, commit=commit, folder=folder, store=StagedBlobs(blob_store())).hash
    except (FolderRefused, GitError):
        return ""
