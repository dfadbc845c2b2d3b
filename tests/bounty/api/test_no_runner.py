"""Opening a bounty for hardware without a runner needs an explicit confirmation."""

import re
from typing import Any

import pytest
from django.test import Client

from bounty.models import Bounty, Runner, RunnerState
from gainshare.ledger import services as ledger
from tests.bounty.api.test_api import client_of
from tests.bounty.bounty_world import World


def terms(world: World, **more: Any) -> dict[str, Any]:
    return {
        "title": "Faster",
        "lineage": world.lineage.name,
        "suite": "moe_forward",
        "preset": "demo",
        "hardware": "h100",
        "escrow_microcredits": 1_000_000,
        "rate_microcredits_per_nat": 1_000_000,
        **more,
    }


def opened(world: World, status: int, **more: Any) -> Any:
    answer = client_of(world.mira).post("/api/v1/bounties/", terms(world, **more), format="json")
    assert answer.status_code == status, answer.content
    return answer.json()


def test_over_rest_it_is_refused_until_accepted(world: World) -> None:
    before = ledger.totals().escrow
    error = opened(world, 409)["error"]
    assert error["code"] == "no_runner"
    assert "h100" in error["message"] and "cpu" in error["message"] and "accept_no_runner" in error["message"]
    assert (Bounty.objects.count(), ledger.totals().escrow) == (1, before)
    assert opened(world, 201, accept_no_runner=True)["hardware"] == "h100"
    assert ledger.totals().escrow == before + 1_000_000


def test_a_runner_that_is_expected_back_counts_and_a_retired_one_does_not(world: World) -> None:
    Runner.objects.update(hardware="h100", state=RunnerState.DRAINED)
    opened(world, 201)
    Runner.objects.update(state=RunnerState.RETIRED)
    error = opened(world, 409)["error"]
    assert "No runner is registered" in error["message"]


def test_a_bug_with_a_reproduction_is_no_way_around_it(world: World) -> None:
    bug = {"suite": "bug", "preset": "standard", "rate_microcredits_per_nat": 0}
    award = {"severity": "low", "award_microcredits": 1_000_000, "reproduction": "def observe(): ...\n"}
    assert opened(world, 409, **bug, **award)["error"]["code"] == "no_runner"


@pytest.mark.parametrize("address", ["/bounties/new/", "/bounties/new/bug/"])
def test_the_form_asks_once_more(world: World, address: str) -> None:
    Runner.objects.all().delete()
    client = Client()
    client.force_login(world.mira)
    typed = {
        "title": "Typed by hand",
        "lineage": world.lineage.name,
        "hardware": "cpu",
        "suite": "moe_forward/demo",
        "severity": "low",
        "award": "1",
        "share": "30",
        "escrow": "1",
        "rate": "1",
        "min_reviewers": "1",
        "max_attempts": "10",
    }
    assert "accept_no_runner" not in client.get(address).content.decode()
    asked = client.post(address, typed)
    html = asked.content.decode()
    assert asked.status_code == 400
    assert "No runner has the hardware cpu" in html and "Typed by hand" in html
    assert re.search(r'type="checkbox" name="accept_no_runner"', html)
    assert not Bounty.objects.filter(title="Typed by hand").exists()
    done = client.post(address, typed | {"accept_no_runner": "on"})
    assert done.status_code == 302
    assert Bounty.objects.filter(title="Typed by hand").count() == 1
