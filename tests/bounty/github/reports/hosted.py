"""A room whose pull request is at the stand-in for GitHub."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bounty.github.reports.publishing import publish
from bounty.github.standin import records
from bounty.github.standin.control.standin import StandIn
from bounty.models import GitHubRepository, Head, Installation, Report
from tests.bounty.github.reports.room import Room


@dataclass
class Hosted(Room):
    """A room whose pull request is at the stand-in."""

    standin: StandIn = field(kw_only=True)
    there: records.Repository = field(init=False)
    pull: records.PullRequest = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        cora = self.standin.add_user("cora")
        self.there = self.standin.add_repository("octo/model", {"model/router.py": "gate = 1\n"})
        opened = self.standin.install([self.there])
        self.pull = self.standin.open_pull_request(self.there, cora, {"model/router.py": "gate = 2\n"})
        installation = Installation.objects.create(installation_id=opened.github_id, account="octo")
        self.repository = GitHubRepository.objects.create(
            github_id=self.there.github_id, full_name="octo/model", installation=installation
        )
        self.installation = installation
        self.pull_request = self.open(number=self.pull.number, head_sha=self.pull.head_sha)

    def head(self, *arguments: Any, **fields: Any) -> Head:
        return super().head(*arguments, **{"sha": self.pull.head_sha, **fields})

    def publish(self) -> None:
        publish(self.pull_request.pk)

    def later(self, seconds: float) -> None:
        """Let time pass here: what was sent or put off is so much older."""
        ago = timedelta(seconds=seconds)
        for row in Report.objects.all():
            changes = {
                name: getattr(row, name) - ago
                for name in ("sent_at", "due_at", "look_at")
                if getattr(row, name)
            }
            Report.objects.filter(pk=row.pk).update(**changes)
        for installation in Installation.objects.exclude(quiet_until=None):
            Installation.objects.filter(pk=installation.pk).update(quiet_until=installation.quiet_until - ago)

    @property
    def comments(self) -> list[str]:
        return [comment.body for comment in self.pull.comments]

    @property
    def checks(self) -> list[tuple[str, str | None]]:
        return [(check.name, check.conclusion) for check in self.there.checks]

    def writes(self) -> int:
        return len(
            [
                row
                for row in self.standin.requests
                if row.method in ("POST", "PATCH") and "/access_tokens" not in row.path
            ]
        )
