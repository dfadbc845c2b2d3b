"""The parts of a running stand-in: its memory, its addresses and its webhook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bounty.github.standin.deliveries import Deliveries
from bounty.github.standin.records import App, Repository
from bounty.github.standin.shapes.links import Site
from bounty.github.standin.state import State


@dataclass(frozen=True)
class Hub:
    """What every operation gets."""

    state: State
    site: Site
    deliveries: Deliveries

    @property
    def app(self) -> App:
        """The App. Raises RuntimeError before it is registered."""
        if self.state.app is None:
            raise RuntimeError("register the App first")
        return self.state.app

    def folder(self, github_id: int) -> Path:
        """The bare repository of that number."""
        return self.state.root / "repositories" / f"{github_id}.git"

    def git_path(self, repository: Repository) -> str:
        """The repository below the folder that `git http-backend` serves."""
        return f"/{repository.folder.name}"
