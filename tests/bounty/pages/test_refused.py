"""Actions that are refused or sent too late: the typed text is kept, and no one gets an empty page."""

import re

import pytest
from django.test import Client

from bounty.models import Dispute, StopSwitch
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line

TYPED = "Line one\r\nline <two>\x00"
SHOWN = "Line one\nline &lt;two&gt;"


def client_of(user: User | None = None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def test_a_refused_review_keeps_its_comment(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(1, "fast = 1"))
    path = f"/submissions/{submission.pk}/accept/"
    client = client_of(world.ann)
    response = client.post(path, {"text": TYPED})
    html = response.content.decode()
    assert response.status_code == 409
    assert SHOWN in html and 'role="alert"' in html
    assert client_of(world.ruth).post(path, {"text": TYPED}).status_code == 302
    assert submission.reviews.get().comment == "Line one\nline <two>"


def test_a_refused_dispute_stays_in_its_open_form_with_the_reason(world: World) -> None:
    submission = world.submit(world.ann, "this is no diff")
    words = "much too long " * 800
    response = client_of(world.ann).post(f"/submissions/{submission.pk}/dispute/", {"text": words})
    html = response.content.decode()
    assert response.status_code == 409 and not Dispute.objects.exists()
    form = html[html.index('id="disputes"') :]
    assert re.search(r"<details[^>]* open>", form)
    assert 'aria-invalid="true" aria-describedby="dispute-text_error"' in form
    assert "at most 10000 characters" in form and words.strip() in form


def test_a_refused_switch_and_a_refused_runner_keep_their_reason(world: World) -> None:
    client = client_of(world.ann)
    response = client.post("/stop/judging/", {"text": TYPED, "action": "stop"})
    assert response.status_code == 409 and SHOWN in response.content.decode()
    assert not StopSwitch.objects.filter(name="judging", is_stopped=True).exists()
    response = client.post(f"/runners/{world.runner.name}/drain/", {"text": TYPED})
    assert response.status_code == 409 and SHOWN in response.content.decode()
    world.runner.refresh_from_db()
    assert world.runner.state == "active"


def test_zero_bytes_do_no_harm(world: World) -> None:
    response = client_of(world.mira).post("/stop/merges/", {"text": "fire\x00", "action": "stop"})
    assert response.status_code == 302
    assert StopSwitch.objects.get(name="merges").reason == "fire"


def test_a_reason_is_an_input_of_one_line(world: World) -> None:
    html = client_of(world.mira).get("/stop/").content.decode()
    assert html.count('<input id="judging" name="text"') == 1 and "<textarea" not in html


def test_the_address_of_an_action_leads_to_its_subject(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(1, "fast = 1"))
    client = client_of(world.ruth)
    for address, subject in (
        (f"/submissions/{submission.pk}/accept/", f"/submissions/{submission.pk}/"),
        (f"/runners/{world.runner.name}/drain/", f"/runners/{world.runner.name}/"),
        ("/stop/judging/", "/stop/"),
    ):
        assert client.get(address).headers["Location"] == subject
    assert not submission.reviews.exists()


def test_a_logged_out_user_is_told_that_nothing_was_changed(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(1, "fast = 1"))
    response = client_of().post(f"/submissions/{submission.pk}/accept/", {"text": "fine"}, follow=True)
    assert response.redirect_chain == [(f"/login/?next=/submissions/{submission.pk}/accept/", 302)]
    assert "You were logged out, so nothing was changed" in response.content.decode()
    assert "logged out" not in client_of().get("/account/", follow=True).content.decode()


@pytest.mark.parametrize("path", ["/login/", "/treasury/"])
def test_a_form_without_its_token_gets_a_page_of_the_site(world: World, path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.mira)
    response = client.post(path, {"amount": "5"})
    html = response.content.decode()
    assert response.status_code == 403
    assert "This form was out of date" in html and 'class="site-header"' in html
