"""Guard rails, random re-measurements and disputes as the submission's page shows them."""

import pytest
from django.test import Client
from pytest_django import Settings

from bounty.models import Submission, SubmissionState
from bounty.pages.actions import allowed_actions
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def client_of(user: User | None = None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def page(submission: Submission, user: User | None = None) -> str:
    response = client_of(user).get(f"/submissions/{submission.pk}/")
    assert response.status_code == 200
    return response.content.decode()


def press(user: User, submission: Submission, action: str, text: str = "") -> str:
    path = f"/submissions/{submission.pk}/{action}/"
    response = client_of(user).post(path, {"text": text}, follow=True)
    submission.refresh_from_db()
    return response.content.decode()


def live(submission: Submission, user: User | None = None) -> dict[str, object]:
    found: dict[str, object] = client_of(user).get(f"/submissions/{submission.pk}/live/").json()
    return found


def test_guard_rails_are_named_while_they_are_measured(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    submission = world.gate(submission, 0.3)
    html = page(submission, world.ruth)
    assert "Confirming: guard rails: waiting for a runner" in html
    assert "Verdict:" not in html  # nothing is decided before they hold
    run = world.lease()
    run.state, run.pairs_done, run.pairs_max = "measuring", 4, 24
    run.save()
    html = page(submission, world.ruth)
    assert "Confirming: guard rails: measuring pairs" in html and "nothing else may become worse" in html
    seen = live(submission, world.ruth)
    assert (seen["pairs_done"], seen["is_settled"]) == (4, False)


def test_reviewers_see_that_a_gain_is_measured_again_and_what_it_found(
    world: World, settings: Settings
) -> None:
    settings.RECHECK_PERCENT = 100
    submission = world.confirmed(world.ann, DIFF)
    html = page(submission, world.ruth)
    assert "Random re-measurement: not finished yet" in html and "Verdict: gain" in html
    assert live(submission)["is_settled"] is False
    submission = review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert "merge" not in allowed_actions(submission, world.mira)
    submission = world.gate(submission, 0.3)
    html = page(submission, world.ruth)
    assert "Random re-measurement: the gain was found again" in html and world.runner.name in html
    assert live(submission)["is_settled"] is True
    assert "merge" in allowed_actions(submission, world.mira)


def test_a_gain_that_was_not_found_again_is_a_verdict_with_its_reason(
    world: World, settings: Settings
) -> None:
    settings.RECHECK_PERCENT = 100
    submission = world.gate(world.confirmed(world.ann, DIFF), 0.0)
    html = page(submission, world.mira)
    assert (
        "Verdict: suspicious" in html and html.count("did not find the gain again") == 2
    )  # verdict, history
    assert {"decline", "rejudge"} <= allowed_actions(submission, world.mira)


def test_an_author_disputes_and_a_maintainer_answers_on_the_page(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.0)
    assert "Dispute this verdict" in page(submission, world.ann)
    for other in (None, world.bob, world.mira):
        assert "Dispute this verdict" not in page(submission, other)
    assert "Write what is wrong" in press(world.ann, submission, "dispute", "  ")
    html = press(world.ann, submission, "dispute", "It is <b>faster</b>\nat home.")
    assert "Your dispute was recorded" in html and "It is &lt;b&gt;faster&lt;/b&gt;<br>at home." in html
    assert "Dispute this verdict" not in html and "Your answer" not in html
    assert "dispute" not in allowed_actions(find_submission(submission.pk), world.ann)
    assert "Your answer" in page(submission, world.mira)
    assert "Only maintainers" in press(world.bob, submission, "answer-uphold", "I say so.")
    html = press(world.mira, submission, "answer-remeasure", "Once more, then.")
    assert "Your answer was recorded." in html and "Once more, then." in html
    assert submission.state == SubmissionState.QUEUED
    html = page(submission, world.ann)
    assert "measured again" in html and world.mira.username in html


@pytest.mark.parametrize("answer", ["uphold", "overturn"])
def test_a_dispute_can_be_upheld_or_overturned_on_the_page(world: World, answer: str) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.0)
    press(world.ann, submission, "dispute", "No.")
    assert "Your answer was recorded." in press(world.mira, submission, f"answer-{answer}", "So it is.")
    assert submission.disputes.get().state == {"uphold": "upheld", "overturn": "overturned"}[answer]
    assert submission.state == SubmissionState.JUDGED
    path = f"/submissions/{submission.pk}/answer-uphold/"
    assert client_of(world.mira).post(path, {"text": "Again."}).status_code == 404  # none is open any more
