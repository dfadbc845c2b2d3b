"""Fixtures of the bounty app's tests: a separate blob store, and messages that are recorded instead of sent."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from bounty.services import wakeups
from tests.bounty.bounty_world import World


@pytest.fixture(autouse=True)
def blob_root(tmp_path: Path, settings: Settings) -> Path:
    settings.BLOB_ROOT = tmp_path / "blobs"
    return settings.BLOB_ROOT


class Outbox(list[tuple[str, list[str], dict[str, Any]]]):
    """Messages (task, arguments, options) in the order in which they would have been sent."""

    def of(self, task: str) -> list[str]:
        return [arguments[0] for name, arguments, _ in self if name == task]


@pytest.fixture(autouse=True)
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    sent = Outbox()
    monkeypatch.setattr(
        wakeups.app,
        "send_task",
        lambda name, args, **options: sent.append((name, args, options)),
    )
    return sent


@pytest.fixture
def world(db: None) -> World:
    return World()
