"""A world whose lineage is bound to a repository that the App sees, with one pull request of Ann's."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from django.utils import timezone

from bounty.models import (
    Command,
    CommandState,
    GitHubRepository,
    Head,
    HeadState,
    Installation,
    PullRequest,
    RepositoryBinding,
    Submission,
)
from gainshare.accounts.models import GitHubAccount
from tests.bounty.bounty_world import World, diff_of_line

_numbers = count(1)


@dataclass
class Room:
    """The world, its repository on GitHub, and pull requests with heads that were submitted."""

    world: World
    installation: Installation = field(init=False)
    repository: GitHubRepository = field(init=False)
    pull_request: PullRequest = field(init=False)

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.installation = Installation.objects.create(installation_id=7000 + number, account="acme")
        self.repository = GitHubRepository.objects.create(
            github_id=8000 + number, full_name=f"acme/model{number}", installation=self.installation
        )
        RepositoryBinding.objects.create(
            lineage=self.world.lineage,
            url="https://github.com/acme/model",
            branch="main",
            folder="model",
            github=self.repository,
            created_by=self.world.mira,
        )
        self.pull_request = self.open()

    def account(self, login: str = "ann-on-github", *, is_dormant: bool = False) -> GitHubAccount:
        account, _ = GitHubAccount.objects.get_or_create(
            user=self.world.ann, defaults={"github_id": 9000 + next(_numbers), "login": login}
        )
        linked_at = None if is_dormant else timezone.now()
        GitHubAccount.objects.filter(pk=account.pk).update(linked_at=linked_at, login=login)
        account.refresh_from_db()
        return account

    def open(self, **fields: Any) -> PullRequest:
        now = timezone.now()
        values = {
            "repository": self.repository,
            "number": next(_numbers),
            "author": self.account(),
            "title": "Faster experts",
            "branch": "main",
            "head_sha": "a" * 40,
            "opened_at": now,
            "updated_at": now,
            "bounty": self.world.bounty,
        }
        return PullRequest.objects.create(**{**values, **fields})

    def head(
        self, submission: Submission | None = None, *, of: PullRequest | None = None, **fields: Any
    ) -> Head:
        """A new head of the pull request; with a submission it is submitted."""
        state = HeadState.SEALED if submission is None else HeadState.SUBMITTED
        sha = f"{next(_numbers):040x}"
        values = {"state": state, "sealed_at": timezone.now(), "diff_blob": "d" * 64, "is_signed_off": True}
        values |= {"sha": sha, "submission": submission, "pull_request": of or self.pull_request}
        return Head.objects.create(**{**values, **fields})

    def submitted(self, line: int = 3, **fields: Any) -> Head:
        """A head whose diff Ann has submitted."""
        return self.head(
            self.world.submit(self.world.ann, diff_of_line(line, f"step_{line} = {line * 11}")), **fields
        )

    def confirmed(self, line: int = 3, speed_up_log: float = 0.3, **fields: Any) -> Head:
        text = diff_of_line(line, f"step_{line} = {line * 11}")
        return self.head(self.world.confirmed(self.world.ann, text, speed_up_log), **fields)

    def command(self, text: str, answer: str = "", **fields: Any) -> Command:
        values = {
            "pull_request": self.pull_request,
            "comment_id": next(_numbers),
            "line": 1,
            "github_id": 1,
            "login": "somebody",
            "text": text,
            "state": CommandState.DONE if answer else CommandState.WAITING,
            "answer": answer,
        }
        return Command.objects.create(**{**values, **fields})

    def changed(self, **fields: Any) -> PullRequest:
        PullRequest.objects.filter(pk=self.pull_request.pk).update(**fields)
        return self.read()

    def read(self) -> PullRequest:
        rows = PullRequest.objects.select_related("repository__installation", "author", "bounty")
        self.pull_request = rows.get(pk=self.pull_request.pk)
        return self.pull_request


@pytest.fixture
def room(world: World) -> Room:
    return Room(world)
