"""`gainshare prices` against a real site over HTTP: shown, published once, refused when it is stale."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_django import Settings

from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Deployment
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.bounty.services.royalties.royalty_world import MODEL, RoyaltyWorld
from tests.bounty.services.runners.pool_world import add_host
from tests.command_here import Command, command_here


@pytest.fixture
def made(transactional_db: None, tmp_path: Any, settings: Settings) -> RoyaltyWorld:
    settings.BLOB_ROOT = tmp_path / "blobs"
    made = RoyaltyWorld(World())
    made.gain(made.world.ann)
    [term] = made.noted(1, 200_000)
    host = add_host(made.world.mira)
    times = [{"batch": 4, "candidate_ns": 8_000_000, "served_ns": 9_000_000}]
    result = {**term.deployment.result, "batch_times": times}
    Deployment.objects.filter(pk=term.deployment_id).update(host=host, result=result)
    host.device_class.price_microcredits_per_device_hour = 3_600_000
    host.device_class.save()
    return made


@pytest.fixture
def gainshare(
    made: RoyaltyWorld, live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    _, secret = create_api_key(user=made.world.mira, name="test", scopes=["read", "maintain"])
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", secret)
    monkeypatch.setattr(console, "width", 220)
    return command_here(monkeypatch, capfd)


def test_a_proposal_is_shown_with_its_arithmetic_then_published(
    made: RoyaltyWorld, gainshare: Command
) -> None:
    status, out, err = gainshare("prices", "propose", MODEL)
    assert status == 0, err
    for word in ("18.1270 %", "30.0000 %", made.world.ann.username, "0.200000", "prefill: no deployment"):
        assert word in out
    status, out, _ = gainshare("prices", "propose", MODEL, "--json")
    found = json.loads(out)
    # 8 ms for a token of each of 4 answers, at 3.6 credits an hour: 2,000 s for a million tokens.
    assert [cost["microcredits_per_million_tokens"] for cost in found["costs"]] == [2_000_000]
    status, _, err = gainshare("prices", "publish", MODEL, "--digest", "0" * 64)
    assert status == 1 and "has changed since it was shown" in err
    status, out, _ = gainshare("prices", "publish", MODEL, "--digest", found["digest"])
    assert status == 0 and "takes effect" in out
    assert made.price_now().derivation["gains"][0]["person"] == made.world.ann.username
    status, out, _ = gainshare("prices", "propose", MODEL)
    assert status == 0 and "nothing to publish" in out
