"""Proposals of prices, their publication, and what a bill and the pages say of them."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from benchmarks.sharing.royalties import royalty_ppm, shared_price
from benchmarks.sharing.savings import MILLION, remaining_ppm
from bounty.models import RoyaltyPayment, RoyaltyTerm
from bounty.services.royalties.days import pay_day
from bounty.services.royalties.terms import settle_terms
from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Deployment, DeploymentState
from gainshare.gateway.prices.comparisons import comparison_of
from gainshare.gateway.prices.proposals import propose, publish_proposal
from gainshare.ledger.errors import LedgerError, MaintainerOnly
from gainshare.ledger.price_book import publish_price, table_of
from tests.bounty.services.royalties.royalty_world import MODEL, PRICES, RoyaltyWorld

pytestmark = pytest.mark.django_db
LOG = 200_000
SAVING = MILLION - remaining_ppm(LOG)
ROYALTY = royalty_ppm(SAVING, 300_000)
AT_ONCE = shared_price(PRICES["output"], remaining_ppm(LOG), [ROYALTY])
AFTERWARDS = shared_price(PRICES["output"], remaining_ppm(LOG))


@pytest.fixture
def made() -> RoyaltyWorld:
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, LOG)
    return made


def test_the_price_falls_by_the_users_part_then_by_the_rest(made: RoyaltyWorld) -> None:
    now = timezone.now()
    found = propose(model=MODEL, now=now)
    assert (found.table.output, found.table.fresh_input) == (AT_ONCE, PRICES["fresh_input"])
    assert found.table.cached_input == PRICES["cached_input"]
    assert found.effective_at == now and found.falls_again_at == made.at(1) + timedelta(days=90)
    publish_proposal(model=MODEL, digest=found.digest, actor=made.world.mira, now=now)
    later = propose(model=MODEL, now=made.at(1) + timedelta(days=90))
    assert later.table.output == AFTERWARDS < AT_ONCE < PRICES["output"]
    assert later.falls_again_at is None


def test_each_line_moves_its_own_prices() -> None:
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, 0, lines={"prefill": 100_000, "memory": 50_000, "load": 400_000})
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == PRICES["output"]
    assert found.table.fresh_input < PRICES["fresh_input"]
    assert {line.line: bool(line.savings) for line in found.lines} == {
        "prefill": True,
        "decode": False,
        "memory": True,
    }


def test_a_published_proposal_keeps_its_derivation_for_good(made: RoyaltyWorld) -> None:
    now = timezone.now()
    version = publish_proposal(
        model=MODEL, digest=propose(model=MODEL, now=now).digest, actor=made.world.mira, now=now
    )
    assert version.derivation["reference"]["output"] == PRICES["output"]
    [gain] = version.derivation["gains"]
    assert (gain["person"], gain["lines"]) == (made.world.ann.username, {"decode": SAVING})
    with pytest.raises(IntegrityError), transaction.atomic():
        connection.cursor().execute("UPDATE ledger_priceversion SET derivation = '{}'")
    assert not propose(model=MODEL, now=timezone.now()).changes


def test_only_what_was_shown_is_published(made: RoyaltyWorld) -> None:
    shown = propose(model=MODEL, now=timezone.now())
    made.gain(made.world.bob)
    made.noted(2, 100_000)
    with pytest.raises(LedgerError, match="has changed since it was shown"):
        publish_proposal(model=MODEL, digest=shown.digest, actor=made.world.mira, now=timezone.now())
    with pytest.raises(MaintainerOnly):
        publish_proposal(model=MODEL, digest=shown.digest, actor=made.world.ann, now=timezone.now())
    assert table_of(made.price_now()) == table_of(made.price)


def test_a_rollback_takes_the_fall_back_a_day_after_it_is_published(made: RoyaltyWorld) -> None:
    now = timezone.now()
    publish_proposal(model=MODEL, digest=propose(model=MODEL, now=now).digest, actor=made.world.mira, now=now)
    assert made.serving is not None
    made.roll_back(made.serving, day=5)
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == PRICES["output"]
    assert found.effective_at > timezone.now() + timedelta(hours=23)


def test_a_price_set_by_hand_has_in_it_what_was_deployed_before(made: RoyaltyWorld) -> None:
    by_hand: dict[str, Any] = {**PRICES, "output": 3_000_000}
    publish_price(model=MODEL, actor=made.world.mira, **by_hand)
    found = propose(model=MODEL, now=timezone.now() + timedelta(seconds=1))
    assert not found.changes and found.table.output == 3_000_000


def test_a_bill_says_what_it_would_have_cost_and_whose_gain_it_was(made: RoyaltyWorld) -> None:
    now = timezone.now()
    version = publish_proposal(
        model=MODEL, digest=propose(model=MODEL, now=now).digest, actor=made.world.mira, now=now
    )
    made.earn(made.cem, 100_000)
    tree = str(made.world.lineage.tip_id)
    before = comparison_of(made.ask(made.cem, day=2.5, tree=tree, output=10_000))
    assert (before.saved_microcredits, before.gains) == (0, ())
    record = made.ask(made.cem, day=3.5, tree=tree, output=10_000, price=version)
    found = comparison_of(record)
    assert (found.before_microcredits, found.billed_microcredits) == (40_000, AT_ONCE // 100)
    assert [gain.person for gain in found.gains] == [made.world.ann.username]
    site = Client()
    site.force_login(made.cem)
    page = site.get(f"/usage/{record.pk}/").content.decode()
    assert "would have cost 0.04 credits" in page and made.world.ann.username in page
    assert "Before the gains" in site.get("/usage/").content.decode()
    client = APIClient()
    _, raw = create_api_key(user=made.cem, name="test", scopes=["read"])
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    shown = client.get(f"/api/v1/usage/{record.pk}/").json()["comparison"]
    assert shown["before_microcredits"] == 40_000 and shown["gains"][0]["lines"] == {"decode": SAVING}


def test_rest_shows_and_publishes_a_proposal(made: RoyaltyWorld) -> None:
    client = APIClient()
    client.force_authenticate(made.world.mira)
    shown = client.get("/api/v1/prices/proposals/", {"model": MODEL}).json()
    decode = next(line for line in shown["lines"] if line["line"] == "decode")
    assert decode["prices"][0] == {
        "term": "output", "reference": PRICES["output"], "in_force": PRICES["output"], "proposed": AT_ONCE,
    }  # fmt: skip
    assert decode["royalties"][0]["royalty_ppm"] == ROYALTY and decode["savings"][0]["saving_ppm"] == SAVING
    stale = client.post("/api/v1/prices/proposals/", {"model": MODEL, "digest": "0" * 64}, format="json")
    assert stale.status_code == 409
    body = {"model": MODEL, "digest": shown["digest"]}
    assert client.post("/api/v1/prices/proposals/", body, format="json").status_code == 201
    assert made.price_now().output == AT_ONCE
    client.force_authenticate(made.world.ann)
    assert client.get("/api/v1/prices/proposals/", {"model": MODEL}).status_code == 403


def test_a_price_is_never_derived_as_if_a_serving_gain_had_no_author() -> None:
    """Beat may not have noted the deployment yet: the proposal does, and adds the author's part."""
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.deploy(made.world.lineage.tip_id, day=1, decode=LOG)
    assert not RoyaltyTerm.objects.exists()
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == AT_ONCE
    assert [row["person"] for row in found.derivation["gains"]] == [made.world.ann.username]


LATER = 100_000


@pytest.fixture
def twice() -> RoyaltyWorld:
    """Ann's gain served, then a price was set by hand, then Bob's gain served on top of hers."""
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, LOG)
    made.set_price(day=5, output=3_000_000)
    made.gain(made.world.bob)
    made.noted(6, LATER)
    return made


def test_after_a_price_set_by_hand_a_gain_moves_it_by_its_own_saving(twice: RoyaltyWorld) -> None:
    """Ann's gain is in the hand-set price already, so that price falls by Bob's saving, less his share of that."""
    saving = MILLION - remaining_ppm(LATER)
    royalty = royalty_ppm(saving, 300_000)
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == shared_price(3_000_000, remaining_ppm(LATER), [royalty])
    decode = next(line for line in found.lines if line.line == "decode")
    [share] = decode.royalties
    assert (share.person, share.saving_ppm, share.royalty_ppm) == (
        twice.world.bob.username,
        saving,
        royalty,
    )
    assert [step.saving_ppm for step in decode.savings] == [saving]
    [gain] = found.derivation["gains"]
    assert gain["lines"] == {"decode": saving}


def test_after_a_price_set_by_hand_a_day_pays_the_laws_share_of_the_saving(twice: RoyaltyWorld) -> None:
    now = timezone.now()
    version = publish_proposal(
        model=MODEL, digest=propose(model=MODEL, now=now).digest, actor=twice.world.mira, now=now
    )
    for price in (twice.price, version):  # at the price set by hand, then at the one that follows from it
        day = 7 if price is twice.price else 8
        twice.earn(twice.cem, 100_000)
        twice.ask(twice.cem, day=day + 0.5, tree=str(twice.world.lineage.tip_id), output=10_000, price=price)
        pay_day(model=MODEL, day=twice.day(day))
        saving = MILLION - remaining_ppm(LATER)
        [paid] = RoyaltyPayment.objects.filter(term__person=twice.world.bob, day=twice.day(day))
        assert paid.amount_microcredits == 30_000 * saving * 300_000 // MILLION**2
        [before] = RoyaltyPayment.objects.filter(term__person=twice.world.ann, day=twice.day(day))
        assert before.amount_microcredits == 30_000 * SAVING * 300_000 // MILLION**2


def test_a_tree_rolled_back_and_deployed_again_after_a_price_set_by_hand_is_not_sold_twice() -> None:
    """What the hand-set price has in it stays in it, so the price does not fall by the same gain once more."""
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, LOG)
    made.set_price(day=5, output=3_000_000)
    assert made.serving is not None
    made.roll_back(made.serving, day=6)
    made.noted(7, LOG)
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == 3_000_000
    assert [line.royalties_ppm for line in found.lines] == [0, 0, 0]


def test_a_rollback_after_a_price_set_by_hand_moves_no_price_that_others_lowered(
    twice: RoyaltyWorld,
) -> None:
    """Ann's tree no longer counts; Bob's still does, and saves what it saved."""
    Deployment.objects.filter(serving_at=twice.at(1)).update(
        state=DeploymentState.ROLLED_BACK, ended_at=twice.at(7)
    )
    settle_terms()
    saving = MILLION - remaining_ppm(LATER)
    found = propose(model=MODEL, now=timezone.now())
    assert found.table.output == shared_price(3_000_000, remaining_ppm(LATER), [royalty_ppm(saving, 300_000)])
