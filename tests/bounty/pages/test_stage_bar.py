"""The bar of a submission's stages: one stage until it is decided, then each with time and figure."""

import re

import pytest
from django.test import Client

from bounty.models import Submission
from bounty.pages.run_views import run_views
from bounty.pages.stage_bar import Stage, stage_bar
from bounty.services.access import is_decided
from bounty.services.awards.lifecycle import reverse, standing_awards
from bounty.services.disputes import file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission, withdraw
from bounty.services.transitions import history
from gainshare.web.effect_text import change_text
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(1, "fast = 1")
NAMES = ["Check", "Gate", "Confirm", "Guard", "Review", "Merge", "Paid"]


def bar(submission: Submission) -> list[Stage]:
    submission = find_submission(submission.pk)
    return stage_bar(
        submission,
        views=run_views(submission) if submission.has_verdict else [],
        awards=list(standing_awards(submission)),
        changes=list(history(submission)),
    )


def states(submission: Submission) -> str:
    return " ".join(f"{stage.name}:{stage.state}" for stage in bar(submission))


def page(submission: Submission) -> str:
    return Client().get(f"/submissions/{submission.pk}/").content.decode()


def is_only_being_judged(submission: Submission) -> bool:
    """Whether the bar has one stage, which tells no figure."""
    return [(stage.name, stage.state, stage.figure) for stage in bar(submission)] == [
        ("Being judged", "now", "")
    ]


def test_until_it_is_decided_there_is_one_stage_without_a_figure(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    assert is_only_being_judged(submission)
    world.lease()
    assert is_only_being_judged(submission)


def test_a_passed_gate_and_a_confirmed_price_tell_nothing_yet(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    assert is_only_being_judged(submission)
    world.gate(submission, 0.3)  # confirmed; the guard rails are still to be measured
    assert is_only_being_judged(submission)
    html = page(submission)
    assert '<svg class="plot"' not in html and "one-sided" not in html and 'id="runs"' not in html
    world.guard(submission)
    assert '<svg class="plot"' in page(submission)


def test_a_suspicious_or_disputed_verdict_is_not_decided(world: World) -> None:
    suspicious = world.submit(world.ann, DIFF)
    world.gate(suspicious, 0.3, events=[{"kind": "suspicious", "detail": "odd", "side": "candidate"}])
    assert is_only_being_judged(suspicious)
    slow = world.submit(world.bob, diff_of_line(3, "slow = 3"))
    world.gate(slow, -0.2)
    assert len(bar(slow)) == 7
    file_dispute(actor=world.bob, submission_id=slow.pk, text="It is faster at home.")
    assert is_only_being_judged(slow)
    assert not is_decided(find_submission(slow.pk))


def test_a_gain_has_time_and_figure_at_each_stage(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF, 0.2)
    stages = {stage.name: stage for stage in bar(submission)}
    assert list(stages) == NAMES
    assert [stage.state for stage in stages.values()] == ["done"] * 4 + ["now", "later", "later"]
    assert all(stage.at for stage in list(stages.values())[:4])
    assert re.fullmatch(r"\+2[12]\.\d\N{NO-BREAK SPACE}%", stages["Gate"].figure)
    bound = submission.awards.get().log_ppm_bound
    assert bound is not None
    assert (stages["Confirm"].figure, stages["Confirm"].note) == (change_text(bound), "at least")
    assert re.fullmatch(r"(\d+) of \1", stages["Guard"].figure)
    assert stages["Review"].figure == "0 of 1" and "unvested" in stages["Paid"].note
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert states(submission).endswith("Review:done Merge:now Paid:later")
    merge(actor=world.mira, submission_id=submission.pk)
    assert [stage.state for stage in bar(submission)] == ["done"] * 7
    assert all(stage.at and stage.figure for stage in bar(submission))
    award = submission.awards.get()
    reverse(actor=world.ruth, submission=find_submission(submission.pk), reason="It cheated.")
    paid = bar(submission)[-1]
    assert paid.state == "failed" and paid.note == "credits, taken back" and award.amount_microcredits


def test_the_way_ends_where_it_failed(world: World) -> None:
    slow = world.submit(world.ann, DIFF)
    world.gate(slow, -0.285)
    assert (
        states(slow) == "Check:done Gate:failed Confirm:later Guard:later Review:later Merge:later Paid:later"
    )
    assert bar(slow)[1].figure.startswith("\N{MINUS SIGN}24.")
    costly = world.submit(world.bob, diff_of_line(3, "fast = 3"))
    world.gate(costly, 0.3)
    world.gate(costly, 0.3)
    world.guard(costly, -0.2)
    assert states(costly).startswith("Check:done Gate:done Confirm:done Guard:failed Review:later")
    rejected = world.submit(world.ann, diff_of_line(1, "x", old="not there"))
    assert [bar(rejected)[0].state, bar(rejected)[0].figure] == ["failed", "patch rejected"]
    gone = world.submit(world.ann, diff_of_line(5, "gone = 5"))
    withdraw(actor=world.ann, submission_id=gone.pk)
    assert [stage.name for stage in bar(gone)] == ["Withdrawn"]


def test_a_gain_that_no_trusted_sandbox_measured_ends_without_an_award(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3, level="none")
    assert states(submission).startswith("Check:done Gate:done Confirm:failed")
    assert bar(submission)[2].figure == "no award"


def test_a_declined_gain_ends_at_its_review(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="Unreadable.")
    assert states(submission).endswith("Guard:done Review:failed Merge:later Paid:later")


def test_one_figure_has_one_form_on_the_page_and_the_reason_is_said_once(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, -0.285)
    html = page(submission)
    assert html.count("Slower than base") == 2  # the notice, and the log
    shown = html.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
    visible = re.sub(r"<title>.*?</title>", "", shown.partition('id="log"')[0])  # each dot has its own
    assert set(re.findall(r"-24\.\d %", visible)) == {"-24.9 %"}
    assert "\N{MULTIPLICATION SIGN}" not in visible.partition('id="verdict"')[2]
    assert "upper bound" in visible and "lower bound" not in visible


@pytest.mark.parametrize("noun", ["Gate", "Confirmation", "Guard rails"])
def test_older_runs_are_folded(world: World, noun: str) -> None:
    submission = world.confirmed(world.ann, DIFF)
    html = page(submission)
    (opening,) = re.findall(
        rf'<details class="run"( open)?>\s*<summary><span class="run-name">{noun} run', html
    )
    assert (opening == " open") == (noun == "Confirmation")
