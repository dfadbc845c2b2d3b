"""The pages of bounties and lineages, as visitors, contributors and maintainers see them."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from bounty.models import Bounty, Lineage, StoredTree
from bounty.services.bounties import close_bounty
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line


def client_of(user: User | None = None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def page(path: str, user: User | None = None, status: int = 200) -> str:
    response = client_of(user).get(path)
    assert response.status_code == status, response.content.decode()[:500]
    return response.content.decode()


def test_the_list_says_what_is_left_and_what_a_gain_earns(world: World) -> None:
    html = page("/bounties/")
    assert world.bounty.title in html
    assert ">100<" in html  # credits left in escrow
    assert "1.9062" in html  # 20 x ln 1.1
    assert "Open a bounty" not in html
    assert "Open a bounty" in page("/bounties/", world.mira)


def test_an_empty_list_says_what_to_do(db: None) -> None:
    assert "No bounties yet" in page("/bounties/")


def test_the_navigation_names_bounties_and_marks_the_current_page(world: World) -> None:
    html = page(f"/bounties/{world.bounty.pk}/")
    assert '<a href="/bounties/" aria-current="page">Bounties</a>' in html


def test_a_bounty_shows_leaderboard_and_submissions(world: World) -> None:
    vested = world.vested(world.ann, diff_of_line(1, "fast = 1"))
    world.submit(world.bob, diff_of_line(2, "../escape"))
    html = page(f"/bounties/{world.bounty.pk}/", world.bob)
    assert f"/submissions/{vested.pk}/" in html
    assert world.ann.username in html and world.bob.username in html
    assert "you have used" in html
    assert "Submit a patch" in html


def test_results_of_a_passed_gate_stay_hidden_until_the_confirmation(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(1, "fast = 1"))
    world.gate(submission, 0.3)
    for person, state in ((None, "being judged"), (world.ann, "being judged"), (world.ruth, "confirming")):
        html = page(f"/bounties/{world.bounty.pk}/", person)
        assert f">{state}</span>" in html and "not yet" in html


def test_a_closed_bounty_takes_nothing(world: World) -> None:
    close_bounty(bounty_id=world.bounty.pk, reason="done", actor=world.mira)
    assert "Submit a patch" not in page(f"/bounties/{world.bounty.pk}/", world.ann)
    assert "takes no submissions now" in page(f"/bounties/{world.bounty.pk}/submit/", world.ann)


def test_an_unknown_bounty_is_not_found(db: None) -> None:
    assert "Traceback" not in page("/bounties/6a9f1b1e-0000-4000-8000-000000000000/", status=404)


def new_terms(world: World, **changes: Any) -> dict[str, Any]:
    terms = {
        "title": "Quicker routing",
        "description": "Start in <router.py>.",
        "lineage": world.lineage.name,
        "suite": "moe_forward/demo",
        "hardware": "cpu",
        "escrow": "12.5",
        "rate": "3",
        "min_reviewers": "1",
        "max_attempts": "5",
        "deadline_at": "",
    }
    return {**terms, **changes}


def test_a_maintainer_opens_a_bounty_with_credits_in_escrow(world: World) -> None:
    before = ledger.totals().treasury
    response = client_of(world.mira).post("/bounties/new/", new_terms(world), follow=True)
    bounty = Bounty.objects.get(title="Quicker routing")
    assert response.redirect_chain == [(f"/bounties/{bounty.pk}/", 302)]
    assert bounty.escrow_microcredits == 12_500_000
    assert before - ledger.totals().treasury == 12_500_000
    assert "&lt;router.py&gt;" in response.content.decode()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"escrow": "a lot"}, "at most six decimals"),
        ({"escrow": "0"}, "more than 0"),
        ({"escrow": "9" * 40}, "at most 1,000,000,000,000 credits"),
        ({"rate": "9" * 40}, "at most 1,000,000,000,000 credits"),
        ({"escrow": "1000000000"}, "Fund the treasury first"),
        ({"rate": "1.1234567"}, "at most six decimals"),
        ({"title": ""}, "required"),
        ({"deadline_at": "2020-01-01T00:00"}, "in the past"),
        ({"suite": "made_up/demo"}, "valid choice"),
    ],
)
def test_impossible_terms_are_refused_with_the_reason(
    world: World, changes: dict[str, str], complaint: str
) -> None:
    response = client_of(world.mira).post("/bounties/new/", new_terms(world, **changes))
    assert response.status_code == 400
    assert complaint in response.content.decode()
    assert Bounty.objects.count() == 1


def test_opening_and_closing_is_for_maintainers(world: World) -> None:
    assert "Only maintainers can open a bounty" in page("/bounties/new/", world.ann, 403)
    assert client_of().get("/bounties/new/").headers["Location"] == "/login/?next=/bounties/new/"
    client_of(world.ann).post(f"/bounties/{world.bounty.pk}/close/")
    world.bounty.refresh_from_db()
    assert world.bounty.state == "open"
    client_of(world.mira).post(f"/bounties/{world.bounty.pk}/close/")
    world.bounty.refresh_from_db()
    assert world.bounty.state == "closed"


def test_a_lineage_shows_each_merge(world: World) -> None:
    submission = world.vested(world.ann, diff_of_line(1, "fast = 1"))
    html = page(f"/lineages/{world.lineage.name}/")
    assert f"Submission by {world.ann.username}" in html
    assert f"/submissions/{submission.pk}/" in html
    assert world.lineage.name in page("/lineages/")


def test_a_maintainer_starts_a_lineage(world: World) -> None:
    terms = {"name": "main", "base_tree": world.tree.pk}
    assert client_of(world.ann).post("/lineages/", terms).status_code == 403
    assert client_of(world.mira).post("/lineages/", terms).status_code == 302
    assert Lineage.objects.get(name="main").tip == world.tree
    again = client_of(world.mira).post("/lineages/", terms)
    assert again.status_code == 400 and b"A lineage with this name already exists" in again.content


def test_a_maintainer_derives_the_tree_that_a_lineage_starts_at(world: World) -> None:
    client = client_of(world.mira)
    diff = diff_of_line(1, "step_1 = 100")
    terms = {"name": "derived", "base_tree": world.tree.pk, "is_demo": "on"}
    upload = SimpleUploadedFile("base.diff", diff.encode())
    assert client.post("/lineages/", {**terms, "file": upload}).status_code == 302
    lineage = Lineage.objects.get(name="derived")
    assert lineage.is_demo and lineage.origin.parent == world.tree
    pasted = {**terms, "name": "pasted", "diff": diff.replace("\n", "\r\n")}
    assert client.post("/lineages/", pasted).headers["Location"] == "/lineages/pasted/"
    assert Lineage.objects.get(name="pasted").origin == lineage.origin
    assert lineage.origin_id[:16] in client.get("/lineages/derived/").content.decode()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"diff": "no diff"}, "may be cut off"),
        ({"diff": diff_of_line(1, "x", old="not there")}, "model/layers/moe/experts.py:1"),
        ({"base_tree": "0" * 64}, "no tree with this hash"),
        ({"base_tree": "main"}, "64 hex digits"),
        ({"name": "Not A Name"}, "lower-case letters"),
    ],
)
def test_a_lineage_that_cannot_start_leaves_nothing_behind(
    world: World, changes: dict[str, str], complaint: str
) -> None:
    trees = StoredTree.objects.count()
    terms = {"name": "derived", "base_tree": world.tree.pk, "diff": diff_of_line(1, "step_1 = 100")}
    response = client_of(world.mira).post("/lineages/", {**terms, **changes})
    assert response.status_code == 400 and complaint in response.content.decode()
    assert not Lineage.objects.filter(name="derived").exists() and StoredTree.objects.count() == trees
    assert client_of(world.ann).post("/lineages/", terms).status_code == 403
    assert StoredTree.objects.count() == trees


def test_large_escrow_and_a_rate_that_takes_all_of_it_are_asked_about(world: World) -> None:
    client, before = client_of(world.mira), ledger.totals().treasury
    large = new_terms(world, escrow="600", call_id=str(uuid4()))
    html = client.post("/bounties/new/", large).content.decode()
    assert "600 credits = 600,000,000 micro-credits: 60 % of all 1,000 credits" in html
    greedy = new_terms(world, rate="1500", call_id=str(uuid4()))
    html = client.post("/bounties/new/", greedy).content.decode()
    assert "A gain of 10 % would earn 142.965 credits, but the escrow has 12.5" in html
    assert "Quicker routing" in html and "&lt;router.py&gt;" in html
    assert ledger.totals().treasury == before
    found = re.search(r'name="confirmed" value="([0-9,]+)"', html)
    assert found is not None and found[1] == "12500000,1500000000"
    message = client.post("/bounties/new/", {**greedy, "confirmed": found[1]}, follow=True).content.decode()
    assert "12.5 credits (12,500,000 micro-credits) are in escrow" in message
    # The form that was asked about is sent again, as the browser's back button does: nothing new is asked or opened.
    assert client.post("/bounties/new/", greedy).status_code == 302
    assert before - ledger.totals().treasury == 12_500_000


@pytest.mark.parametrize("field", ["escrow", "rate"])
@pytest.mark.parametrize("text", ["0,5", "1,5", "1.000,50", "1,500", "1.500"])
def test_a_decimal_comma_is_never_read_as_another_amount(world: World, field: str, text: str) -> None:
    response = client_of(world.mira).post("/bounties/new/", new_terms(world, **{field: text}))
    html = response.content.decode()
    assert response.status_code == 400 and f'id="id_{field}_error"' in html and f'value="{text}"' in html
    assert re.search(rf'<input[^>]*name="{field}"[^>]* autofocus', html)
    assert html.count(" autofocus") == 1
    assert Bounty.objects.count() == 1
