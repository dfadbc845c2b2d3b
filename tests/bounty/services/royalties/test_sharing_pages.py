"""The law and the royalties as people see them: pages and REST."""

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from benchmarks.sharing.royalties import Law
from bounty.models import SharingLaw
from bounty.services.royalties.days import pay_day
from bounty.services.royalties.laws import in_words, law_at
from gainshare.gateway.prices.proposals import propose
from gainshare.ledger.price_book import active_price
from gainshare.web.formatting import format_credits
from gainshare.web.price_words import format_share
from tests.bounty.services.royalties.royalty_world import MODEL, RoyaltyWorld

pytestmark = pytest.mark.django_db


def test_a_contributor_sees_awards_and_royalties_by_gain_and_day() -> None:
    made = RoyaltyWorld()
    submission = made.gain(made.world.ann)
    site = Client()
    site.force_login(made.world.ann)
    assert "not served yet" in site.get("/royalties/").content.decode()
    made.noted(1, 200_000)
    made.earn(made.cem, 100_000)
    made.ask(made.cem, day=2.5, tree=str(submission.candidate_tree_id), output=10_000)
    paid = pay_day(model=MODEL, day=made.day(2)).royalties_microcredits
    page = site.get("/royalties/").content.decode()
    assert f"decode of {MODEL}" in page and f"{paid / 1e6:.6f}".rstrip("0") in page
    client = APIClient()
    client.force_authenticate(made.world.ann)
    [row] = client.get("/api/v1/royalties/").json()["results"]
    assert (row["amount_microcredits"], row["state"], row["line"]) == (paid, "pending", "decode")
    client.force_authenticate(made.cem)
    assert client.get("/api/v1/royalties/").json()["results"] == []
    site.force_login(made.cem)
    assert "No gains yet" in site.get("/royalties/").content.decode()


def test_the_law_is_shown_and_only_maintainers_change_it() -> None:
    made = RoyaltyWorld()
    world, name = made.world, made.world.lineage.name
    site, client = Client(), APIClient()
    site.force_login(world.ann)
    assert "30 % of the saving for 90 days" in site.get(f"/lineages/{name}/").content.decode()
    assert (
        "30 % of the saving for 90 days" in site.get(f"/bounties/{world.bounty.pk}/submit/").content.decode()
    )
    form = {"share": "12.5", "days": "30", "reason": "try less"}
    assert site.post(f"/lineages/{name}/law/", form).status_code == 403
    client.force_authenticate(world.ann)
    body = {"share_ppm": 1, "days": 1, "reason": "mine"}
    assert client.post(f"/api/v1/lineages/{name}/law/", body, format="json").status_code == 403
    assert SharingLaw.objects.count() == 0
    site.force_login(world.mira)
    assert site.post(f"/lineages/{name}/law/", form).status_code == 302
    assert client.get(f"/api/v1/lineages/{name}/law/").json() == {
        "lineage": name,
        "share_ppm": 125_000,
        "days": 30,
    }
    client.force_authenticate(world.mira)
    for _ in range(2):
        assert client.post(f"/api/v1/lineages/{name}/law/", body, format="json").status_code == 200
    assert SharingLaw.objects.count() == 2
    assert law_at(world.lineage.pk, made.at(0)) == Law()
    page = site.post(f"/lineages/{name}/law/", {**form, "share": "101"})
    assert page.status_code == 400 and "less than or equal to 100" in page.content.decode()
    assert client.get("/api/v1/lineages/nothing/law/").status_code == 404


def test_a_law_that_gives_nothing_says_so() -> None:
    assert in_words(Law(0, 90)) == in_words(Law(300_000, 0)) == "none of the saving"
    assert in_words(Law(125_000, 1)) == "12.5 % of the saving for 1 day"


def test_a_maintainer_reads_the_arithmetic_of_a_price_and_publishes_it() -> None:
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, 200_000)
    site, path = Client(), f"/prices/proposals/{MODEL}/"
    assert site.get(path).headers["Location"] == f"/login/?next={path}"
    site.force_login(made.world.ann)
    assert site.get(path).status_code == site.post(path, {"digest": "0" * 64}).status_code == 403
    site.force_login(made.world.mira)
    assert f'href="{path}"' in site.get("/prices/").content.decode()
    found = propose(model=MODEL, now=timezone.now())
    page = site.get(path).content.decode()
    decode = next(line for line in found.lines if line.line == "decode")
    proposed = decode.prices[0].proposed
    for text in (
        format_credits(proposed),
        format_share(decode.remaining_ppm),
        made.world.ann.username,
        found.digest,
    ):
        assert text in page
    stale = site.post(path, {"digest": "0" * 64})
    assert stale.status_code == 409 and "has changed since it was shown" in stale.content.decode()
    assert site.post(path, {"digest": found.digest}).headers["Location"] == "/prices/"
    assert active_price(MODEL, timezone.now()).output == proposed
    assert "there is nothing to publish" in site.get(path).content.decode()
    assert site.post(path, {"digest": found.digest}).status_code == 409
    assert site.get("/prices/proposals/no-such-model/").status_code == 404
