"""Reads which trees a branch's folder was between two commits."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.patch.staged_blobs import StagedBlobs
from bounty.github.repositories.folder_trees import FolderRefused, read_folder
from bounty.github.repositories.git import Git, GitError
from bounty.services.trees import blob_store

MAX_COMMITS = 200
MAX_READ = 30


@dataclass(frozen=True, slots=True)
class Step:
    """A commit of the branch at which its folder became the tree with this hash."""

    commit: str
    tree: str


def steps_since(repository: Path, *, commit: str, folder: str, since: str) -> tuple[Step, ...]:
    """How `folder` changed on the first-parent line after `since` (empty: ever) up to `commit`, the oldest first.

    Looks at the newest MAX_COMMITS commits and reads at most their newest MAX_READ different folders. Folders that no
    tree may have are left out.
    """
    git = Git(repository)
    upto = [f"^{since}"] if since else []
    listed = git.run(
        "rev-list", "--first-parent", f"--max-count={MAX_COMMITS}", "--end-of-options", commit, *upto
    )[1]
    commits = listed.decode("ascii").split()
    asked = "".join(f"{name}:{folder}\n" for name in commits).encode()
    answers = git.run("cat-file", "--batch-check", given=asked)[1].decode("utf-8", "replace").splitlines()
    found = [
        (name, answer.split(" ")[0])
        for name, answer in zip(commits, answers, strict=True)
        if not answer.endswith(" missing")
    ]
    hashes: dict[str, str] = {}
    steps: list[Step] = []
    for name, git_tree in found:
        if git_tree not in hashes:
            if len(hashes) == MAX_READ:
                break
            hashes[git_tree] = _hash_at(repository, name, folder)
        here = Step(name, hashes[git_tree])
        if steps and steps[-1].tree == here.tree:
            steps[-1] = here  # the oldest commit that has it
        elif here.tree:
            steps.append(here)
    return tuple(reversed(steps))


def _hash_at(repository: Path, commit: str, folder: str) -> str:
    try:
        return read_folder(repository, commit=commit, folder=folder, store=StagedBlobs(blob_store())).hash
    except (FolderRefused, GitError):
        return ""
