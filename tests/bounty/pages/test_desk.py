"""The to-do page: tasks are listed until they are decided, and only for users who may decide them."""

import pytest
from django.test import Client

from bounty.models import DisputeState
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.runners import maintenance as runner_maintenance
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line


def desk(user: User, status: int = 200) -> str:
    client = Client()
    client.force_login(user)
    response = client.get("/desk/")
    assert response.status_code == status
    return response.content.decode()


def test_only_maintainers_have_one(world: World) -> None:
    assert "Only maintainers have a to-do page" in desk(world.ann, 403)
    assert Client().get("/desk/").headers["Location"] == "/login/?next=/desk/"
    assert "Nothing to do" in desk(world.mira)


def test_a_confirmed_gain_waits_for_its_review_and_then_for_its_merge(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(1, "fast = 1"))
    address = f"/submissions/{submission.pk}/"
    html = desk(world.ruth)
    assert "To review" in html and address in html and world.ann.username in html
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    html = desk(world.mira)
    assert "To review" not in html and "To merge" in html and address in html
    merge(actor=world.mira, submission_id=submission.pk)
    assert "Nothing to do" in desk(world.mira)


def test_own_patches_are_not_listed_for_review(world: World) -> None:
    world.confirmed(world.ruth, diff_of_line(1, "fast = 1"))
    assert "To review" in desk(world.mira) and "To review" not in desk(world.ruth)


def test_who_has_reviewed_waits_for_the_others(world: World) -> None:
    bounty = world.open(min_reviewers=2)
    submission = world.confirmed(world.ann, diff_of_line(1, "fast = 1"), bounty=bounty)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert "To review" not in desk(world.ruth) and "To review" in desk(world.mira)


def test_an_open_dispute_waits_until_it_is_answered(world: World) -> None:
    submission = world.submit(world.ann, "this is no diff")
    dispute = file_dispute(actor=world.ann, submission_id=submission.pk, text="It is one.")
    html = desk(world.mira)
    assert "Open disputes" in html and f"/submissions/{submission.pk}/#disputes" in html
    answer_dispute(actor=world.mira, dispute_id=dispute.pk, answer="uphold", text="It is none.")
    dispute.refresh_from_db()
    assert dispute.state == DisputeState.UPHELD
    assert "Nothing to do" in desk(world.mira)


def test_a_runner_in_quarantine_waits_until_it_is_released(world: World) -> None:
    runner_maintenance.quarantine(actor=world.mira, name=world.runner.name, reason="clicks")
    html = desk(world.ruth)
    assert "Runners in quarantine" in html and f"/runners/{world.runner.name}/" in html
    runner_maintenance.release(actor=world.mira, name=world.runner.name, reason="quiet")
    assert "Nothing to do" in desk(world.ruth)


def test_a_long_pile_says_how_long_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bounty.pages.desk.SHOWN", 1)
    for number in (1, 2):
        submission = world.submit(world.ann, f"no diff {number}")
        file_dispute(actor=world.ann, submission_id=submission.pk, text="why?")
    html = desk(world.mira)
    assert "The oldest 1 of 2" in html and html.count("#disputes") == 1
