"""Prices after a slow base on the pages and in REST: what became of each, and nothing of undecided ones."""

from bounty.services.awards.repricing import supplements_of
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, make_user
from tests.bounty.pages.test_slow_bases import client_of, page
from tests.bounty.services.awards.test_repricing import FIRST, SECOND, THIRD, called_slow, settle


def test_everyone_reads_what_became_of_each_price(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    assert "Prices after a slow base" not in page(world)
    called_slow(world, slow)
    settle()
    assert "Prices after a slow base" in page(world) and "measuring" in page(world)
    world.judge(0.3)
    settle()
    world.judge(0.0)
    settle()
    assert "credits more: the base that the gain was priced against proved slow" in page(world)
    (paid,) = supplements_of(find_submission(bob.pk))
    html = client_of(None).get(f"/submissions/{bob.pk}/").content.decode()
    assert "Paid in addition, because its base proved slow" in html
    (share,) = client_of(None).get(f"/api/v1/submissions/{bob.pk}/").json()["shares"]
    assert (share["role"], share["amount_microcredits"]) == ("supplement", paid.amount_microcredits)
    (found,) = client_of(world.mira).get("/api/v1/slow-bases/").json()["results"]
    assert [(row["submission"], row["state"]) for row in found["repricings"]] == [(str(bob.pk), "paid")]


def test_a_price_that_is_undecided_is_not_told(world: World) -> None:
    """Cleo's gate has passed against the slow base: that she will be priced again would tell it."""
    slow = world.vested(world.ann, FIRST, 0.3)
    cleo = world.submit(make_user("cleo"), THIRD)
    world.gate(cleo, 0.2)
    called_slow(world, slow)
    assert find_submission(cleo.pk).repricings.count() == 1
    settle()
    assert str(cleo.pk) not in page(world) and "Prices after a slow base" not in page(world, world.mira)
    (found,) = client_of(world.mira).get("/api/v1/slow-bases/").json()["results"]
    assert found["repricings"] == []
    world.judge(0.3)
    settle()
    world.judge(0.0)
    settle()
    assert find_submission(cleo.pk).state == "confirmed"
    assert str(cleo.pk) in page(world) and supplements_of(find_submission(cleo.pk))
