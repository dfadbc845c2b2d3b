"""`gainshare runners` and `gainshare stop` against a real site over HTTP."""

import json
from typing import Any

import pytest

from bounty.services.emergency import switches
from gainshare.accounts.models import Scope, User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.command_here import Command, command_here


def key_of(user: User, scopes: list[str]) -> str:
    key, secret = create_api_key(user=user, name="test", scopes=scopes)
    assert key.user == user
    return secret


@pytest.fixture
def world(transactional_db: None) -> World:
    return World()


@pytest.fixture
def gainshare(
    world: World, live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.mira, [Scope.MAINTAIN.value]))
    monkeypatch.setattr(console, "width", 200)
    return command_here(monkeypatch, capfd)


def result(gainshare: Command, *arguments: str) -> Any:
    status, out, err = gainshare(*arguments, "--json")
    assert status == 0, out + err
    return json.loads(out)


def test_a_maintainer_manages_runners_and_stops_the_platform(
    world: World, gainshare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.runner.name
    (listed,) = result(gainshare, "runners", "list")
    assert (listed["name"], listed["state"], listed["current_run"]) == (name, "active", None)
    (ordered,) = result(gainshare, "runners", "calibrate", name)
    assert (ordered["kind"], ordered["suite"]) == ("aa", "moe_forward")
    assert "nothing new" in gainshare("runners", "calibrate", name)[1]
    world.judge(0.3, units=12)  # a gain over itself
    shown = result(gainshare, "runners", "show", name)
    assert (shown["state"], shown["quarantine_cause"], shown["doubts"]) == ("quarantined", "drift", [])
    assert shown["noise"][0]["is_good"] is False
    status, out, _ = gainshare("runners", "show", name)
    assert status == 0 and "quarantined for drift" in out and "against itself" in out
    assert result(gainshare, "runners", "release", name, "--reason", "dusted")["state"] == "active"
    assert result(gainshare, "runners", "drain", name, "--reason", "moves")["state"] == "drained"
    assert result(gainshare, "runners", "resume", name, "--reason", "moved")["state"] == "active"
    quarantined = result(gainshare, "runners", "quarantine", name, "--reason", "clicks")
    assert [change["reason"] for change in quarantined["changes"]][-4:] == [
        "moves",
        "it has finished its run",
        "moved",
        "clicks",
    ]
    assert gainshare("runners", "drain", "nobody", "--reason", "x")[0] == 1
    assert gainshare("runners", "drain", name)[0] == 2  # no reason

    rows = result(gainshare, "stop", "judging", "merges", "--reason", "a wrong tree")
    assert {row["name"]: row["is_stopped"] for row in rows} == {"judging": True, "merges": True}
    status, out, _ = gainshare("stop", "--status")
    assert status == 0 and out.count("stopped") == 2 and "a wrong tree" in out and "running" in out
    for wrong in (["stop"], ["stop", "coffee", "--reason", "x"], ["stop", "--status", "--lift"]):
        assert gainshare(*wrong)[0] == 2
    rows = result(gainshare, "stop", "--lift")
    assert len(rows) == 3 and not any(row.is_stopped for row in switches())

    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.ann, [Scope.READ.value]))
    status, out, _ = gainshare("stop", "awards", "--reason", "I lost", "--json")
    assert status == 1 and json.loads(out)["error"]["code"] == "permission_denied"
    assert len(result(gainshare, "runners", "list")) == 1
