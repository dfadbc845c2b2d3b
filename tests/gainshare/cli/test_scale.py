"""`gainshare scale` against a real site over HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest

from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import ServedModel
from tests.command_here import Command, error_of, lone_command
from tests.gainshare.capacity.scaling.scaling_world import make_class, make_host, make_user, passes

pytestmark = pytest.mark.slow


@pytest.fixture
def gainshare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return lone_command(monkeypatch, capfd, tmp_path / "home")


@pytest.fixture
def site(
    transactional_db: None, live_server: Any, monkeypatch: pytest.MonkeyPatch, gainshare: Command
) -> Command:
    boss = make_user()
    _, raw = create_api_key(user=boss, name="cli", scopes=sorted(boss.allowed_scopes))
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", raw)
    make_host(make_class("cpu-small"), devices=3)
    return gainshare


def test_a_model_is_served_changed_and_its_decisions_are_shown(site: Command) -> None:
    status, out, _ = site("scale", "set", "tiny", "--nodes", "2", "--json")
    assert (status, error_of(out)["code"]) == (1, "not_found")
    assert "--classes" in error_of(out)["message"]
    status, out, _ = site(
        "scale", "set", "tiny", "--classes", "cpu-small", "--nodes", "2", "--budget", "5000000"
    )
    assert status == 0 and "2 fixed" in out
    served = ServedModel.objects.get()
    assert (served.fixed_nodes, served.budget_microcredits_per_day) == (2, 5_000_000)
    passes(served)
    status, out, _ = site("scale", "list", "--json")
    assert json.loads(out)[0]["wanted"] == {"cpu-small": 2}
    status, out, _ = site("scale", "set", "tiny", "--policy", "kpa", "--no-budget", "--json")
    served.refresh_from_db()
    assert (status, served.policy, served.is_automatic) == (0, "kpa", True)
    assert served.budget_microcredits_per_day is None and served.fixed_nodes == 2
    status, out, _ = site("scale", "decisions", "--model", "tiny", "--json")
    assert [row["reason"] for row in json.loads(out)] == ["a maintainer set 2 nodes"]
    status, out, _ = site("scale", "decisions")
    assert status == 0 and "2 nodes" in out and "cpu-small" in out


def test_contradictions_are_wrong_usage(site: Command) -> None:
    for wrong in (["--policy", "kpa", "--nodes", "1"], ["--budget", "1", "--no-budget"]):
        status, out, _ = site("scale", "set", "tiny", *wrong, "--json")
        assert (status, error_of(out)["code"]) == (2, "usage")


def test_what_the_site_refuses_is_said(site: Command) -> None:
    status, out, _ = site("scale", "set", "tiny", "--classes", "gold", "--json")
    assert (status, error_of(out)["code"]) == (1, "no_such_class")
