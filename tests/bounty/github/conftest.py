"""Fixtures of the tests of bound repositories: a served folder, and one repository that has the world's tree."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pytest_django import Settings

from bounty.github.app import credentials
from bounty.github.repositories.bindings import bind
from bounty.github.repositories.following import follow, mirror_of
from bounty.github.standin.control.standin import StandIn, running
from bounty.models import Lineage, RepositoryBinding
from tests.bounty.bounty_world import World
from tests.bounty.github.git_server import Repository, served


@dataclass
class Bound:
    """A world whose lineage is bound to a repository that has its tree."""

    world: World
    url: str
    repository: Repository
    first: str = field(init=False)

    def __post_init__(self) -> None:
        self.repository.put_tree(self.world.tree)
        self.first = self.repository.commit("the lineage's tree")
        self.bind()

    def bind(self, **terms: str) -> RepositoryBinding:
        named = {"repository": f"{self.url}/model.git", "branch": "main", **terms}
        return bind(actor=self.world.mira, name=self.world.lineage.name, **named)

    def follow(self) -> RepositoryBinding:
        return follow(lineage=self.world.lineage.name)

    def push(self, text: str, message: str = "push") -> str:
        """Push a change of one file; the commit."""
        self.repository.put("model/layers/moe/router.py", text)
        return self.repository.commit(message)

    @property
    def lineage(self) -> Lineage:
        return Lineage.objects.get(pk=self.world.lineage.pk)

    @property
    def mirror(self) -> Path:
        return mirror_of(RepositoryBinding.objects.get(lineage=self.world.lineage))


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in may get the port of one that ended, whose tokens it does not know."""
    monkeypatch.setattr(credentials, "_requesters", {})


@pytest.fixture
def served_folder(tmp_path: Path, settings: Settings) -> Iterator[tuple[Path, str]]:
    settings.REPOSITORY_ROOT = tmp_path / "repositories"
    settings.REPOSITORY_PROTOCOLS = ["https", "http"]
    root = tmp_path / "served"
    root.mkdir()
    with served(root) as url:
        yield root, url


@pytest.fixture
def bound(world: World, served_folder: tuple[Path, str]) -> Bound:
    root, url = served_folder
    return Bound(world, url, Repository(root / "model.git"))


@pytest.fixture
def standin(tmp_path: Path, settings: Settings) -> Iterator[StandIn]:
    """The stand-in for GitHub, to which the site's settings lead. Events are kept, not sent: see `set_hook`."""
    settings.REPOSITORY_ROOT = tmp_path / "mirrors"
    with running(tmp_path / "github") as started:
        for name, value in started.settings().items():
            setattr(settings, name, value)
        yield started
