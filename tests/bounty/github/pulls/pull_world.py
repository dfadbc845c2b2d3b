"""A connected repository with pull requests: facts as GitHub would tell them, commits in a real repository."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from django.utils import timezone

from bounty.github.app.facts import AccountFacts, CommentFacts, PullRequestFacts
from bounty.github.pulls.advance import advance_pull_request
from bounty.github.pulls.seeing import see, see_comment
from bounty.models import Command, GitHubRepository, Head, PullRequest, RepositoryBinding
from gainshare.accounts.models import GitHubAccount, User
from tests.bounty.bounty_world import EXPERTS, World
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository

EXPERTS_PATH = "model/layers/moe/experts.py"
REPOSITORY_ID = 4711
PAM = AccountFacts(501, "pam")
QUINN = AccountFacts(502, "quinn")
_comments = count(9000)


def link(user: User, account: AccountFacts) -> GitHubAccount:
    """Let the user own this account of GitHub, as if they had signed in with it."""
    return GitHubAccount.objects.create(
        github_id=account.github_id, login=account.login, user=user, linked_at=timezone.now()
    )


def experts(**lines: str) -> str:
    """The file of twelve lines with some replaced: `experts(step_3="step_3 = 33")`."""
    text = EXPERTS
    for name, line in lines.items():
        number = int(name.removeprefix("step_"))
        text = text.replace(f"step_{number} = {number}\n", f"{line}\n")
    return text


@dataclass
class Pulls:
    """A bound lineage whose repository is connected. Pam's account is linked to Ann unless told otherwise."""

    bound: Bound
    github: GitHubRepository = field(init=False)
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.bound.follow()
        self.github = GitHubRepository.objects.create(github_id=REPOSITORY_ID, full_name="acme/model")
        begin = timezone.now() - timedelta(days=1)
        RepositoryBinding.objects.update(github=self.github, created_at=begin, daily_microcredits=50_000_000)
        self.now = timezone.now().replace(microsecond=0) - timedelta(hours=1)
        link(self.world.ann, PAM)

    @property
    def world(self) -> World:
        return self.bound.world

    @property
    def repository(self) -> Repository:
        return self.bound.repository

    @property
    def binding(self) -> RepositoryBinding:
        return RepositoryBinding.objects.get()

    def commit(self, number: int = 1, *, files: dict[str, str] | None = None, message: str = "faster") -> str:
        """A commit on a branch of its own from main, which is the head of pull request `number`."""
        before = dict(self.repository.files)
        for path, text in (files or {EXPERTS_PATH: experts(step_3="step_3 = 33")}).items():
            self.repository.put(path, text)
        main = self.repository.git("rev-parse", "refs/heads/main")
        sha = self.repository.commit(message, branch=f"topic-{number}", parent=main)
        self.repository.git("update-ref", f"refs/pull/{number}/head", sha)
        self.repository.files = before
        return sha

    def facts(
        self, sha: str, number: int = 1, *, author: AccountFacts = PAM, **said: object
    ) -> PullRequestFacts:
        made = PullRequestFacts(
            repository_id=REPOSITORY_ID,
            number=number,
            author=author,
            title="Faster experts",
            body="",
            branch="main",
            head_sha=sha,
            state="open",
            is_draft=False,
            is_merged=False,
            created_at=self.now,
            updated_at=self.now,
        )
        return replace(made, **said)  # type: ignore[arg-type]  # fields of the facts

    def see(self, facts: PullRequestFacts, *, received_at: datetime | None = None) -> PullRequest:
        pull = see(facts, received_at=received_at or timezone.now())
        assert pull is not None
        return pull

    def advance(self, pull: PullRequest) -> PullRequest:
        advance_pull_request(pull_request_id=pull.pk)
        pull.refresh_from_db()
        return pull

    def opened(self, sha: str, number: int = 1, **said: object) -> PullRequest:
        """A pull request that was opened a moment ago, and looked at once."""
        return self.advance(self.see(self.facts(sha, number, **said)))  # type: ignore[arg-type]

    def pushed(self, pull: PullRequest, sha: str, **said: object) -> PullRequest:
        """A newer head of it, looked at once."""
        facts = self.facts(sha, pull.number, created_at=pull.opened_at, updated_at=self.later(), **said)
        return self.advance(self.see(facts))

    def later(self, seconds: int = 1) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def comment(
        self, pull: PullRequest, body: str, *, author: AccountFacts = PAM, **said: object
    ) -> CommentFacts:
        made = CommentFacts(
            repository_id=REPOSITORY_ID,
            number=pull.number,
            comment_id=next(_comments),
            author=author,
            sent_by=author,
            body=body,
            created_at=datetime.now(UTC),
        )
        return replace(made, **said)  # type: ignore[arg-type]  # fields of the facts

    def say(self, pull: PullRequest, body: str, *, author: AccountFacts = PAM) -> Command:
        """Comment, and look at the pull request once; the command of the comment's first line."""
        facts = self.comment(pull, body, author=author)
        see_comment(facts)
        self.advance(pull)
        return Command.objects.get(comment_id=facts.comment_id, line=1)

    def head(self, sha: str) -> Head:
        return Head.objects.select_related("submission").get(sha=sha)
