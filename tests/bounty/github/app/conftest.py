"""A repository at the stand-in that an installation opens to the App, with its rows here."""

from dataclasses import dataclass, field

import pytest

from bounty.github.app.client import Client, client_for
from bounty.github.standin import records
from bounty.github.standin.control.standin import StandIn
from bounty.models import GitHubRepository, Installation


@dataclass
class Connected:
    """Olga owns octo/model, Mira may write to it, Cora contributes from her fork."""

    standin: StandIn
    repository: records.Repository = field(init=False)
    opened: records.Installation = field(init=False)
    mira: records.Account = field(init=False)
    cora: records.Account = field(init=False)
    installation: Installation = field(init=False)

    def __post_init__(self) -> None:
        self.mira, self.cora = self.standin.add_user("mira"), self.standin.add_user("cora")
        self.repository = self.standin.add_repository(
            "octo/model", {"model/router.py": "gate = 1\n", "README.md": "Read me\n"}, roles={"mira": "write"}
        )
        self.opened = self.standin.install([self.repository])
        self.installation = Installation.objects.create(
            installation_id=self.opened.github_id, account="octo", permissions=self.opened.permissions
        )
        GitHubRepository.objects.create(
            github_id=self.repository.github_id, full_name="octo/model", installation=self.installation
        )

    @property
    def client(self) -> Client:
        return client_for(self.installation)

    def pull(self, text: str = "gate = 2\n", **more: object) -> records.PullRequest:
        return self.standin.open_pull_request(self.repository, self.cora, {"model/router.py": text}, **more)  # type: ignore[arg-type]


@pytest.fixture
def connected(db: None, standin: StandIn) -> Connected:
    return Connected(standin)
