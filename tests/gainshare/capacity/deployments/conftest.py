"""Settings and stand-ins of the tests of deployments."""

from typing import Any

import pytest
from pytest_django import Settings

from tests.gainshare.capacity.deployments import deployments_world


@pytest.fixture(autouse=True)
def arranged(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    deployments_world.arrange(settings, tmp_path)
    monkeypatch.setattr(deployments_world, "LENGTHS", [])
