"""Pull requests are merged, queued for merging, and reverted."""

from __future__ import annotations

from bounty.github.standin import events, git, merging
from bounty.github.standin.actions.pulls import branch_moved, mark_merged
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, PullRequest, Repository


def merge(hub: Hub, pull: PullRequest, sender: Account, *, method: str) -> str:
    """Merge by merge, squash or rebase; the commit that the branch has now. Raises Conflict."""
    made = _merge_commit(hub, pull, sender, method)
    return _land(hub, pull, made, sender)


def _merge_commit(hub: Hub, pull: PullRequest, sender: Account, method: str) -> str:
    folder = pull.repository.folder
    return merging.merge(
        folder, method, tip=git.ref(folder, f"refs/heads/{pull.base}"), head=pull.head_sha, title=pull.title,
        number=pull.number, author=signature(pull.author if method == "squash" else sender), at=hub.state.now(),
    )  # fmt: skip


def _land(hub: Hub, pull: PullRequest, commit: str, sender: Account) -> str:
    folder, name = pull.repository.folder, f"refs/heads/{pull.base}"
    before = git.ref(folder, name)
    git.set_ref(folder, name, commit)
    mark_merged(hub, pull, commit, sender)
    branch_moved(hub, pull.repository, pull.base, before, commit, sender)
    return commit


def enqueue(hub: Hub, pull: PullRequest, sender: Account) -> str:
    """Put a pull request into the merge queue; the queue's commit, for which checks are asked."""
    repository = pull.repository
    base = git.ref(repository.folder, f"refs/heads/{pull.base}")
    made = _merge_commit(hub, pull, sender, "merge")
    branch = f"gh-readonly-queue/{pull.base}/pr-{pull.number}-{base}"
    git.set_ref(repository.folder, f"refs/heads/{branch}", made)
    events.pull_request(hub, "enqueued", pull, sender)
    events.push(hub, repository, f"refs/heads/{branch}", "", made, sender)
    events.merge_group(hub, "checks_requested", pull, made, base, sender)
    return made


def land_queued(hub: Hub, pull: PullRequest, commit: str, sender: Account) -> str:
    """Merge what the queue made: the branch moves to the queue's commit, whose branch goes."""
    repository = pull.repository
    base = git.ref(repository.folder, f"refs/heads/{pull.base}")
    branch = f"refs/heads/gh-readonly-queue/{pull.base}/pr-{pull.number}-{base}"
    git.drop_ref(repository.folder, branch)
    events.merge_group(hub, "destroyed", pull, commit, base, sender)
    _land(hub, pull, commit, sender)
    events.push(hub, repository, branch, commit, "", sender)
    return commit


def revert(hub: Hub, repository: Repository, commit: str, sender: Account, *, branch: str) -> str:
    """Push a commit that takes back what `commit` brought to a branch. Raises Conflict."""
    name = f"refs/heads/{branch}"
    tip = git.ref(repository.folder, name)
    made = merging.reverted(repository.folder, commit, tip, author=signature(sender), at=hub.state.now())
    git.set_ref(repository.folder, name, made)
    branch_moved(hub, repository, branch, tip, made, sender)
    return made


def signature(account: Account) -> str:
    """The name and address that a user's commits carry."""
    address = account.email or f"{account.github_id}+{account.login}@users.noreply.github.com"
    return f"{account.login} <{address}>"
