"""Which process of the local stack gets which secret."""

import os
from pathlib import Path

import pytest

from gainshare.local.environment import GITHUB, Environments
from gainshare.local.paths import Home
from gainshare.local.secrets import Secrets

SECRETS = {name: f"secret of {name}" for name in GITHUB}


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(
        home=Home(tmp_path),
        secrets=Secrets(tmp_path / "secrets"),
        tag="tag",
        url="http://127.0.0.1:1",
        database_url="postgresql://",
        control_broker_url="redis://control",
        runner_broker_url="redis://runner",
        node_url=None,
        hardware="cpu",
        outer={**os.environ, **SECRETS, "GAINSHARE_UNKNOWN": "kept out"},
    )


def test_the_site_s_processes_speak_to_github_and_no_other(environments: Environments) -> None:
    for site in (environments.platform(), environments.web()):
        assert SECRETS.items() <= site.items()
        assert "GAINSHARE_UNKNOWN" not in site
    for other in (environments.runner(), environments.node(), environments.server()):
        assert not set(SECRETS) & set(other)
        assert not any("secret of" in value for value in other.values())
