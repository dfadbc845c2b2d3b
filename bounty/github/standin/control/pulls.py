"""Pull requests are opened, pushed to, discussed, reviewed, merged and reverted."""

from __future__ import annotations

from collections.abc import Mapping

from bounty.github.standin import git
from bounty.github.standin.actions import comments, merges, pulls
from bounty.github.standin.actions.merges import signature
from bounty.github.standin.control.world import WorldControl
from bounty.github.standin.git import Content
from bounty.github.standin.records import Account, CheckRun, Comment, PullRequest, Repository, Review

STATES = {"approve": "APPROVED", "request_changes": "CHANGES_REQUESTED", "comment": "COMMENTED"}


class PullControl(WorldControl):
    """Control of pull requests."""

    def open_pull_request(
        self,
        repository: Repository,
        author: Account,
        files: Mapping[str, Content],
        *,
        title: str = "Make it faster",
        body: str = "",
        message: str = "Make it faster",
        base: str | None = None,
        branch: str = "",
        start: str | None = None,
        is_draft: bool = False,
        from_fork: bool = True,
    ) -> PullRequest:
        """Commit files to a new branch and open a pull request for it, from the author's fork if not said otherwise.

        ``start`` is the commit that the work begins at; the tip of ``base`` without it.
        """
        with self.hub.state.lock:
            target = base or repository.default_branch
            source = self.fork(repository, author.login) if from_fork else repository
            name = branch or f"patch-{len(repository.pulls) + 1}"
            began = start or git.ref(repository.folder, f"refs/heads/{target}")
            self._bring(repository, source, began)
            self._commit(source, name, files, author, message, began)
            if not from_fork:
                pulls.branch_moved(
                    self.hub, source, name, "", git.ref(source.folder, f"refs/heads/{name}"), author
                )
            return pulls.open_pull_request(
                self.hub, repository, source=source, branch=name, base=target, author=author, title=title, body=body,
                is_draft=is_draft,
            )  # fmt: skip

    def push_to(
        self,
        pull: PullRequest,
        files: Mapping[str, Content],
        *,
        by: Account | None = None,
        message: str = "Improve it",
        start: str | None = None,
    ) -> str:
        """Push a commit to a pull request; with another ``start`` than its head that is a force push. The new head."""
        sender = by or pull.author
        with self.hub.state.lock:
            if start is not None:
                self._bring(pull.repository, pull.source, start)
            before = pull.head_sha
            made = self._commit(pull.source, pull.branch, files, sender, message, start or before)
            pulls.branch_moved(self.hub, pull.source, pull.branch, before, made, sender)
            return made

    def comment(self, pull: PullRequest, author: Account, body: str) -> Comment:
        with self.hub.state.lock:
            return comments.add_comment(self.hub, pull, author, body)

    def edit_comment(
        self, pull: PullRequest, comment: Comment, body: str, *, by: Account | None = None
    ) -> None:
        """Edit a comment, by its author if no one else is named."""
        with self.hub.state.lock:
            comments.edit_comment(self.hub, pull, comment, body, by=by or comment.author)

    def delete_comment(self, pull: PullRequest, comment: Comment, *, by: Account | None = None) -> None:
        with self.hub.state.lock:
            comments.delete_comment(self.hub, pull, comment, by=by or comment.author)

    def review(
        self,
        pull: PullRequest,
        author: Account,
        verdict: str = "approve",
        *,
        commit: str | None = None,
        body: str = "",
    ) -> Review:
        """Review a commit, the head if none is named: approve, request_changes or comment."""
        with self.hub.state.lock:
            sha = commit or pull.head_sha
            return pulls.add_review(self.hub, pull, author, state=STATES[verdict], commit_sha=sha, body=body)

    def dismiss(self, pull: PullRequest, review: Review, *, by: Account) -> None:
        with self.hub.state.lock:
            pulls.dismiss_review(self.hub, pull, review, by)

    def edit(
        self,
        pull: PullRequest,
        *,
        by: Account | None = None,
        title: str | None = None,
        body: str | None = None,
        base: str | None = None,
    ) -> None:
        """Change a pull request's title, text or branch."""
        with self.hub.state.lock:
            pulls.edit(self.hub, pull, by or pull.author, title=title, body=body, base=base)

    def set_draft(self, pull: PullRequest, is_draft: bool, *, by: Account | None = None) -> None:
        with self.hub.state.lock:
            pulls.set_draft(self.hub, pull, by or pull.author, is_draft=is_draft)

    def close_pull_request(self, pull: PullRequest, *, by: Account | None = None) -> None:
        with self.hub.state.lock:
            pulls.close(self.hub, pull, by or pull.author)

    def reopen(self, pull: PullRequest, *, by: Account | None = None) -> None:
        with self.hub.state.lock:
            pulls.reopen(self.hub, pull, by or pull.author)

    def merge(self, pull: PullRequest, by: Account, method: str = "merge") -> str:
        """Merge by ``merge``, ``squash`` or ``rebase``; the branch's new tip."""
        with self.hub.state.lock:
            return merges.merge(self.hub, pull, by, method=method)

    def enqueue(self, pull: PullRequest, by: Account) -> str:
        """Put a pull request into the merge queue; the queue's commit."""
        with self.hub.state.lock:
            return merges.enqueue(self.hub, pull, by)

    def land(self, pull: PullRequest, commit: str, by: Account) -> str:
        """Merge what `enqueue` made; the branch's new tip."""
        with self.hub.state.lock:
            return merges.land_queued(self.hub, pull, commit, by)

    def revert(self, repository: Repository, commit: str, by: Account, *, branch: str = "main") -> str:
        """Push a commit that takes back what another brought; the new tip."""
        with self.hub.state.lock:
            return merges.revert(self.hub, repository, commit, by, branch=branch)

    def checks_of(self, pull: PullRequest, sha: str | None = None) -> list[CheckRun]:
        """Check runs of a commit, the pull request's head if none is named; oldest first."""
        with self.hub.state.lock:
            return [run for run in pull.repository.checks if run.head_sha == (sha or pull.head_sha)]

    def app_comments(self, pull: PullRequest) -> list[Comment]:
        """Comments that the App wrote; oldest first."""
        with self.hub.state.lock:
            return [row for row in pull.comments if row.is_by_app]

    def _bring(self, repository: Repository, source: Repository, commit: str) -> None:
        """Let the source have a commit of the repository, as a fork that was synchronized has it."""
        if not git.has_commit(source.folder, commit):
            git.git(source.folder, "fetch", "-q", "--no-tags", str(repository.folder), commit)

    def _commit(
        self,
        source: Repository,
        branch: str,
        files: Mapping[str, Content],
        author: Account,
        message: str,
        start: str,
    ) -> str:
        return git.commit_files(
            source.folder, branch=branch, files=files, message=message, author=signature(author),
            at=self.hub.state.now(), parent=start,
        )  # fmt: skip
