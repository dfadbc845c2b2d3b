"""Pages after a change of layout: ended submissions say why, and impossible actions are not offered."""

import pytest
from django.test import Client

from bounty.models import Submission
from bounty.pages.actions import allowed_actions
from bounty.pages.stage_bar import stage_bar
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_awards
from bounty.services.renewal import renew_lineages
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from bounty.services.transitions import history
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.older_layout import OLD_MODULES, older_version

pytestmark = pytest.mark.django_db
DIFF = diff_of_line(1, "fast = 1")


def page(path: str, user: User | None = None) -> str:
    client = Client()
    if user is not None:
        client.force_login(user)
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def merge_stage(submission: Submission) -> tuple[str, str]:
    bar = stage_bar(
        submission, views=[], awards=list(standing_awards(submission)), changes=list(history(submission))
    )
    stage = next(stage for stage in bar if stage.name == "Merge")
    return stage.state, stage.figure


def test_what_ended_says_why_on_its_page_and_the_lineage_says_when() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    shipped = renew_lineages(actor=world.mira).shipped_tree
    html = page(f"/submissions/{submission.pk}/", world.ann)
    assert "moved modules of model/" in html and "does not count as an attempt" in html
    html = page(f"/lineages/{world.lineage.name}/")
    assert shipped[:16] in html and "Renewed: the layout of model/ changed" in html


def test_a_booked_gain_is_reviewed_paid_and_never_waits_for_a_merge() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        submission = world.confirmed(world.ann, DIFF)
    renew_lineages(actor=world.mira)
    assert "To review" in page("/desk/", world.ruth)
    offered = allowed_actions(find_submission(submission.pk), world.ruth)
    assert {"accept", "decline"} <= offered and offered.isdisjoint({"remeasure", "merge"})
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert "merge" not in allowed_actions(find_submission(submission.pk), world.ruth)
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == "vested"
    assert merge_stage(submission) == ("later", "not merged")
    assert "Nothing to do" in page("/desk/", world.mira)


def test_a_failed_run_of_an_older_tree_waits_for_no_one() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        submission = world.gate(world.submit(world.ann, DIFF), 0.0)
        Submission.objects.filter(pk=submission.pk).update(verdict_kind="infrastructure_error")
        assert "rejudge" in allowed_actions(find_submission(submission.pk), world.mira)
        assert "Verdicts to check" in page("/desk/", world.mira)
    assert "rejudge" not in allowed_actions(find_submission(submission.pk), world.mira)
    assert "Nothing to do" in page("/desk/", world.mira)
