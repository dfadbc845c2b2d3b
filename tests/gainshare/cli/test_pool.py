"""`gainshare pool` and `gainshare runners device` against a real site over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_django import Settings

from gainshare.accounts.services import create_api_key
from gainshare.capacity.pool.classes import find_class
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.bounty.services.runners.pool_world import add_host, add_node
from tests.command_here import Command, command_here


@pytest.fixture
def world(transactional_db: None, tmp_path: Any, settings: Settings) -> World:
    settings.BLOB_ROOT = tmp_path / "blobs"
    return World()


@pytest.fixture
def gainshare(
    world: World, live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    _, secret = create_api_key(user=world.mira, name="test", scopes=["read", "maintain"])
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", secret)
    monkeypatch.setattr(console, "width", 220)
    return command_here(monkeypatch, capfd)


def result(gainshare: Command, *arguments: str) -> Any:
    status, out, err = gainshare(*arguments, "--json")
    assert status == 0, out + err
    return json.loads(out)


def test_a_maintainer_sets_up_a_pool_and_everybody_sees_it(world: World, gainshare: Command) -> None:
    status, out, _ = gainshare("pool")
    assert status == 0 and "The pool is empty" in out and "gainshare pool class" in out
    made = result(
        gainshare, "pool", "class", "cpu-small", "--price", "0.5", "--hardware", "cpu", "--max-nodes", "4"
    )
    assert (made["price_microcredits_per_device_hour"], made["max_nodes"]) == (500_000, 4)
    changed = result(gainshare, "pool", "class", "cpu-small", "--price", "0.25", "--preemptible")
    assert (changed["hardware"], changed["is_preemptible"], len(changed["prices"])) == ("cpu", True, 2)
    status, out, _ = gainshare("pool", "class", "cpu-small")
    assert status == 0 and "0.25" in out and "0.5" in out and world.mira.username in out
    assert find_class("cpu-small").price_microcredits_per_device_hour == 250_000

    host = add_host(world.mira, problem="no space is left")
    add_node(host, 1, model="tiny", load={"running": 2}, reason="fixed")
    status, out, _ = gainshare("pool")
    assert status == 0
    for word in (
        "cpu-small",
        "0.25",
        host.name,
        "node, ready",
        "tiny",
        "running 2",
        "free",
        world.runner.name,
    ):
        assert word in out, word
    assert "no space is left" in out
    (shown,) = result(gainshare, "pool")["classes"]
    assert [device["use"] for device in shown["hosts"][0]["devices"]] == ["free", "node"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("pool", "class", "cpu-small", "--price", "much"), 2),
        (("pool", "class", "cpu-small", "--price", "-1"), 2),
        (("pool", "class", "CPU small", "--price", "1"), 1),
        (("pool", "class", "nothing"), 1),
    ],
)
def test_what_cannot_be_set_is_refused(gainshare: Command, arguments: tuple[str, ...], status: int) -> None:
    assert gainshare(*arguments)[0] == status
    assert result(gainshare, "pool")["classes"] == []


def test_a_runner_is_told_its_device(world: World, gainshare: Command) -> None:
    host, name = add_host(world.mira), world.runner.name
    set_ = result(gainshare, "runners", "device", name, f"{host.name}:1", "--reason", "it is there")
    assert (set_["pool_host"], set_["pool_device"]) == (host.name, 1)
    status, out, _ = gainshare("runners", "device", name, f"{host.name}:0", "--reason", "the other one")
    assert status == 0 and f"on {host.name}:0" in out
    unset = result(gainshare, "runners", "device", name, "none", "--reason", "moved")
    assert (unset["pool_host"], unset["pool_device"]) == ("", None)
    assert gainshare("runners", "device", name, "nowhere:0", "--reason", "typo")[0] == 1
    assert gainshare("runners", "device", name, host.name, "--reason", "typo")[0] == 2
