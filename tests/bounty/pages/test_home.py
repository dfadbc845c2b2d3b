"""The home page: public activity, the user's balance and next steps, and no undecided results."""

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bounty.models import Award, Bounty, Submission, SubmissionState
from bounty.services.awards.lifecycle import reverse
from bounty.services.bounties import close_bounty
from bounty.services.merges import merge
from bounty.services.overview import latest_gain, overview
from bounty.services.reviews import review
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.ledger import services as ledger
from gainshare.web.formatting import format_credits
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def home(user: User | None = None) -> str:
    client = Client()
    if user is not None:
        client.force_login(user)
    response = client.get("/")
    assert response.status_code == 200
    return response.content.decode()


def figure(html: str, title: str) -> str:
    found = re.search(rf"<dt>(?:<a[^>]*>)?{title}(?:</a>)?</dt><dd>([^<]*)<", html)
    assert found is not None, title
    return found[1]


def queries(user: User | None = None) -> int:
    client = Client()
    if user is not None:
        client.force_login(user)
    with CaptureQueriesContext(connection) as captured:
        assert client.get("/").status_code == 200
    return len(captured)


def test_a_site_without_anything_says_where_to_begin(db: None) -> None:
    html = home()
    assert "No gain is confirmed yet" in html and "None at the moment" in html
    assert figure(html, "Open bounties") == "0" and figure(html, "Paid to contributors") == "0"
    assert "Next steps" not in html


def test_bounties_that_take_submissions_are_listed_the_newest_first(world: World) -> None:
    late = world.open(
        title="Too late", escrow_microcredits=1_000_000, deadline_at=timezone.now() + timedelta(days=1)
    )
    Bounty.objects.filter(pk=late.pk).update(deadline_at=timezone.now() - timedelta(seconds=1))
    closed = world.open(title="Closed one", escrow_microcredits=1_000_000)
    close_bounty(bounty_id=closed.pk, reason="done", actor=world.mira)
    for number in range(5):
        world.open(title=f"Number {number} <b>", escrow_microcredits=1_000_000)
    html = home()
    listed = re.findall(r"Number (\d) &lt;b&gt;", html)
    assert listed == ["4", "3", "2", "1"]
    assert "Too late" not in html and "Closed one" not in html
    assert figure(html, "Open bounties") == "6" and "All 6" in html


def test_the_latest_confirmed_gain_is_shown_with_its_plot_and_what_was_paid(world: World) -> None:
    first = world.vested(world.ann, DIFF, 0.3)
    paid = Award.objects.get(submission=first).amount_microcredits
    assert paid is not None
    html = home()
    assert figure(html, "Confirmed gains") == "1"
    assert figure(html, "Paid to contributors") == format_credits(paid)
    assert world.ann.username in html and f"/submissions/{first.pk}/" in html
    assert '<svg class="plot"' in html and html.count("<circle") > 24
    second = world.confirmed(world.bob, diff_of_line(4, "step_4 = 44"), 0.2)
    html = home()
    assert figure(html, "Confirmed gains") == "2"
    assert figure(html, "Paid to contributors") == format_credits(paid)  # the second is not paid yet
    assert f"/submissions/{second.pk}/" in html and f"/submissions/{first.pk}/" not in html


def test_what_is_not_decided_stays_sealed(world: World) -> None:
    """The gate, the confirmation and the guard rails pass one after the other: nothing shows before the last."""
    submission = world.submit(world.ann, DIFF)
    for _ in range(2):
        world.gate(submission, 0.3)
        html = home()
        assert latest_gain() is None and figure(html, "Confirmed gains") == "0"
        assert str(submission.pk) not in html and world.ann.username not in html and "<circle" not in html
    world.guard(submission)
    assert figure(home(), "Confirmed gains") == "1"


def test_a_gain_that_is_priced_again_is_sealed_again(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    assert latest_gain() is not None
    Submission.objects.filter(pk=submission.pk).update(state=SubmissionState.CONFIRMING)
    html = home()
    assert figure(html, "Confirmed gains") == "0" and str(submission.pk) not in html


def test_what_was_declined_or_taken_back_is_no_gain(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="unreadable")
    assert overview(now=timezone.now(), shown=4).n_gains == 0
    cheat = world.confirmed(world.bob, diff_of_line(4, "step_4 = 44"))
    review(actor=world.ruth, submission_id=cheat.pk, decision="accept")
    merge(actor=world.mira, submission_id=cheat.pk)
    assert overview(now=timezone.now(), shown=4).paid_microcredits > 0
    cheat.refresh_from_db()
    reverse(actor=world.mira, submission=cheat, reason="a cheat")
    seen = overview(now=timezone.now(), shown=4)
    assert (seen.n_gains, seen.paid_microcredits, seen.latest) == (0, 0, None)


def test_a_newcomer_is_led_to_the_first_steps(world: World) -> None:
    html = home(world.ann)
    assert figure(html, "Available") == "0"
    for words, path in (
        ("submit your first patch", "/bounties/"),
        ("in the playground", "/playground/"),
        ("Make an API key for your programs", "/keys/"),
    ):
        assert re.search(rf'<li><a href="{path}">[^<]*{words}', html), words
    create_api_key(user=world.ann, name="x", scopes=["read"])
    assert "Make an API key for your programs" not in home(world.ann)


def test_a_contributor_sees_balance_and_own_patches(world: World) -> None:
    ledger.grant_credits(transfer_id=uuid4(), user=world.ann, amount_microcredits=820_000_499, source="grant")
    submission = world.submit(world.ann, DIFF)
    html = home(world.ann)
    assert figure(html, "Available") == "820.000499"
    assert "Watch your patches: 1 being judged now." in html
    world.gate(submission, 0.3)
    world.price(submission, 0.3)
    html = home(world.ann)
    assert "1 not yet merged and paid" in html and figure(html, "Awarded, not yet vested") != "0"
    assert "not yet merged" not in home(world.bob)


def test_a_maintainer_sees_how_much_waits(world: World) -> None:
    assert "Decide about open tasks" not in home(world.mira)
    world.confirmed(world.ann, DIFF)
    assert '<a href="/desk/">Decide about open tasks: 1 on your to-do page.' in home(world.ruth)
    assert "Decide about open tasks" not in home(world.ann)


def test_an_empty_treasury_is_pointed_out_to_maintainers(db: None) -> None:
    maintainer = User.objects.create(username="mo", role="maintainer")
    assert "The treasury is empty" in home(maintainer)
    assert "The treasury is empty" not in home(User.objects.create(username="kim"))


@pytest.mark.parametrize("who", [None, "ann", "mira"])
def test_the_page_takes_few_queries_however_much_there_is(world: World, who: str | None) -> None:
    user = None if who is None else getattr(world, who)
    world.vested(world.ann, DIFF)
    few = queries(user)
    for number in range(4, 8):
        world.open(title=f"bounty {number}", escrow_microcredits=1_000_000)
    world.confirmed(world.bob, diff_of_line(4, "step_4 = 44"))
    world.submit(world.ann, diff_of_line(5, "step_5 = 55"))
    assert queries(user) == few <= {None: 9, "ann": 18, "mira": 26}[who]
