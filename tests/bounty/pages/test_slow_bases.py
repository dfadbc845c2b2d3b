"""A base in doubt on the pages: what waits, who decides, and what a maintainer is told."""

from django.test import Client

from bounty.models import AwardState, SlowBaseState
from bounty.services.awards.lifecycle import standing_award
from bounty.services.series.slow_bases import find_slow_base
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World
from tests.bounty.services.series.test_slow_bases import slow_from_a_date_on


def client_of(user: User | None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def page(world: World, user: User | None = None) -> str:
    return client_of(user).get(f"/lineages/{world.lineage.name}/").content.decode()


def test_everyone_reads_that_merges_wait_and_maintainers_decide(world: World) -> None:
    paid, later, finding = slow_from_a_date_on(world)
    html = page(world)
    assert "Merges wait" in html and paid.submitter.username in html and "take its award back" not in html
    assert str(later.pk) not in html  # who found it is told to maintainers
    assert "take its award back" in page(world, world.mira)
    assert "Bases in doubt" in client_of(world.mira).get("/desk/").content.decode()
    path = f"/lineages/{world.lineage.name}/base/{finding.pk}/slow/"
    refused = client_of(world.mira).post(path, {"text": " "})
    assert refused.status_code == 409 and "Give a reason" in refused.content.decode()
    assert client_of(world.bob).post(path, {"text": "it is slow"}).status_code in (403, 409)
    done = client_of(world.mira).post(path, {"text": "It is slow since Monday."}, follow=True)
    assert "Your decision was recorded" in done.content.decode()
    assert find_slow_base(finding.pk).state == SlowBaseState.SLOW
    award = standing_award(paid)
    assert award is None or award.state == AwardState.REVERSED
    assert "Merges wait" not in page(world)


def test_unknown_answers_and_findings_are_not_found(world: World) -> None:
    _paid, _later, finding = slow_from_a_date_on(world)
    client = client_of(world.mira)
    base = f"/lineages/{world.lineage.name}/base"
    assert client.post(f"{base}/{finding.pk}/maybe/", {"text": "x"}).status_code == 404
    assert client.post(f"{base}/6a9f1b1e-0000-4000-8000-000000000000/kept/", {"text": "x"}).status_code == 404
