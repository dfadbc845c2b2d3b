"""The world's lineage as a repository at the stand-in for GitHub, whose events are delivered to the webhook's door."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.test import Client as Browser
from django.utils import timezone

from bounty.github.events.deliveries import process_delivery
from bounty.github.pulls.advance import advance_pull_request
from bounty.github.repositories.bindings import bind
from bounty.github.repositories.following import follow
from bounty.github.standin import records
from bounty.github.standin.control.standin import StandIn
from bounty.github.standin.deliveries import Delivery as Sent
from bounty.models import Command, Delivery, GitHubRepository, Installation, PullRequest, RepositoryBinding
from bounty.services.trees import blob_store, load_tree
from gainshare.accounts.models import GitHubAccount, User
from tests.bounty.bounty_world import World
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, experts

DOOR = "/api/v1/github/webhook/"


@dataclass
class HubWorld:
    """Olga owns octo/model, Will may write to it, Cora contributes. Mira, a maintainer here, has linked her account."""

    world: World
    standin: StandIn
    repository: records.Repository = field(init=False)
    cora: records.Account = field(init=False)
    will: records.Account = field(init=False)
    mira: records.Account = field(init=False)
    sent: int = 0

    def __post_init__(self) -> None:
        self.cora, self.will = self.standin.add_user("cora"), self.standin.add_user("will")
        self.mira = self.standin.add_user("mira")
        files = {entry.path: blob_store().get(entry.blob) for entry in load_tree(self.world.tree).entries}
        self.repository = self.standin.add_repository("octo/model", files, roles={"will": "write"})
        opened = self.standin.install([self.repository])
        installation = Installation.objects.create(
            installation_id=opened.github_id, account="octo", permissions=opened.permissions
        )
        bind(actor=self.world.mira, name=self.world.lineage.name, repository="octo/model", branch="main")
        github = GitHubRepository.objects.create(
            github_id=self.repository.github_id, full_name="octo/model", installation=installation
        )
        begin = timezone.now() - timedelta(days=1)
        RepositoryBinding.objects.update(github=github, daily_microcredits=50_000_000, created_at=begin)
        assert follow(lineage=self.world.lineage.name).problem == ""
        self.link(self.mira, self.world.mira)
        self.standin.deliveries.all.clear()

    def link(self, account: records.Account, user: User) -> None:
        """Let the user own the account, as if they had signed in with it."""
        GitHubAccount.objects.update_or_create(
            github_id=account.github_id,
            defaults={"login": account.login, "user": user, "linked_at": timezone.now()},
        )

    def opens(self, line: str = "step_3 = 33", **more: Any) -> records.PullRequest:
        """Cora opens a pull request that replaces the file's third line."""
        files = {EXPERTS_PATH: experts(step_3=line)}
        return self.standin.open_pull_request(self.repository, self.cora, files, **more)

    def deliver(self, rows: Iterable[Sent] | None = None) -> None:
        """Deliver what happened since the last call, or these, have it worked off and every pull request looked at."""
        for row in list(self.standin.deliveries.all[self.sent :] if rows is None else rows):
            assert post(row).status_code == 202
        self.sent = len(self.standin.deliveries.all)
        self.work()

    def work(self) -> None:
        """What control workers do with the messages of what was delivered."""
        for delivery in Delivery.objects.filter(done_at=None):
            process_delivery(delivery_id=delivery.pk)
        for pull in PullRequest.objects.all():
            advance_pull_request(pull_request_id=pull.pk)

    def says(self, pull: records.PullRequest, who: records.Account, body: str) -> Command:
        """Comment, deliver it, and return its first command."""
        comment = self.standin.comment(pull, who, body)
        self.deliver()
        return Command.objects.filter(comment_id=comment.github_id).order_by("line")[0]


def post(row: Sent, **headers: str) -> Any:
    """Post a delivery to the door as it was sent."""
    given = {**row.headers, **headers}
    return Browser().post(DOOR, row.body, content_type="application/json", headers=given)
