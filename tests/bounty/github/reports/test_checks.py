"""The check runs that a pull request's heads should have, in each state of their submissions."""

import json
from dataclasses import asdict

import pytest
from django.db import transaction
from django.db.utils import IntegrityError
from django.utils import timezone

from bounty.github.pulls.sealing import NOTHING_CHANGED
from bounty.github.reports.checks import WantedCheck, wanted_checks
from bounty.models import Head, HeadState, PullRequestState, Report, ReportKind
from bounty.services.awards.lifecycle import restore, reverse
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission, withdraw
from bounty.services.transitions import note
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.reports.room import Room

pytestmark = pytest.mark.django_db


def check_of(room: Room) -> WantedCheck:
    (check,) = wanted_checks(room.read())
    return check


def tell(room: Room) -> list[WantedCheck]:
    """Write down what is final now, as publishing does before it sends; what was written."""
    told = [check for check in wanted_checks(room.read()) if check.outcome]
    for check in told:
        Report.objects.create(
            kind=ReportKind.CHECK,
            pull_request=room.pull_request,
            head=check.head,
            subject=check.subject,
            outcome=check.outcome,
            final_fields=asdict(check.fields),
            is_final=True,
            told_at=timezone.now(),
        )
    return told


def test_a_waiting_head_is_queued_with_its_place_and_eta(room: Room) -> None:
    room.world.submit(room.world.bob, diff_of_line(5, "step_5 = 55"))
    room.submitted()
    check = check_of(room)
    assert (check.subject, check.fields.status, check.fields.conclusion) == ("verdict", "queued", "")
    assert "waiting for a runner" in check.fields.title
    assert "1 ahead of it in the queue" in check.fields.summary


def test_it_shows_looks_and_not_which_run_it_is(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    run = room.world.lease()
    type(run).objects.filter(pk=run.pk).update(pairs_done=13)
    check = check_of(room)
    assert check.fields.status == "in_progress"
    assert "Interim checks so far: 2" in check.fields.title


def test_a_confirmation_looks_like_a_gate(room: Room) -> None:
    """Whether a gate has passed is sealed, so the check run of each run reads the same but for the looks."""
    head = room.submitted()
    assert head.submission is not None
    seen = []
    for speed_up in (0.3, 0.3, 0.0):
        run = room.world.lease()
        seen.append(check_of(room).fields)
        room.world.commit(run)
        room.world.finish(run, speed_up)
        room.world.advance(head.submission)
    texts = [json.dumps(asdict(fields)).casefold() for fields in seen]
    for word in ("gate", "confirm", "guard", "recheck", "passed", "price", "%"):
        assert all(word not in text for text in texts), word
    assert {fields.status for fields in seen} == {"in_progress"}


def test_green_only_after_confirmation_and_guard_rails(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    conclusions = []
    for speed_up in (0.3, 0.3, 0.0):
        conclusions.append(check_of(room).fields.conclusion)
        room.world.gate(head.submission, speed_up)
    check = check_of(room)
    assert conclusions == ["", "", ""]
    assert (check.fields.status, check.fields.conclusion) == ("completed", "success")
    assert "Gain confirmed: at least +3" in check.fields.title


def test_a_confirmed_gain_shows_its_figures(room: Room) -> None:
    head = room.confirmed()
    fields = check_of(room).fields
    for name in (
        "Estimate",
        "Lower bound",
        "Pairs",
        "Noise",
        "Runner",
        "Sandbox",
        "Guard rails",
        "Award",
        "Rank",
    ):
        assert f"| {name}" in fields.text, name
    assert room.world.runner.name in fields.text and "`bubblewrap`" in fields.text
    assert "1 of 1 gains of this series" in fields.text
    assert "What to do next" in fields.summary and "does not prove" in fields.text
    assert fields.details_url.endswith(f"/submissions/{head.submission_id}/")
    assert fields.details_url in fields.text


@pytest.mark.parametrize(
    ("speed_up", "conclusion", "words"),
    [(0.0, "neutral", "no gain"), (-0.3, "failure", "regression")],
)
def test_a_verdict_without_a_gain_has_its_conclusion(
    room: Room, speed_up: float, conclusion: str, words: str
) -> None:
    head = room.submitted()
    assert head.submission is not None
    room.world.gate(head.submission, speed_up)
    fields = check_of(room).fields
    assert (fields.conclusion, fields.title) == (conclusion, f"Verdict: {words}")
    assert "What to do next" in fields.summary


def test_a_gain_whose_guard_rails_fail_is_never_green(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    for speed_up in (0.3, 0.3, -0.5):
        room.world.gate(head.submission, speed_up)
    assert find_submission(head.submission.pk).state == "judged"
    assert check_of(room).fields.conclusion == "failure"


def test_a_gain_of_an_untrusted_sandbox_is_not_green(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    room.world.gate(head.submission, 0.3, level="none")
    fields = check_of(room).fields
    assert (fields.conclusion, fields.title) == ("neutral", "A gain, but no award")


def test_a_rejected_diff_fails_without_figures(room: Room) -> None:
    submission = room.world.submit(
        room.world.ann, diff_of_line(3, "step_3 = 33").replace("experts", "nothing")
    )
    room.head(submission)
    fields = check_of(room).fields
    assert submission.state == "rejected"
    assert (fields.conclusion, fields.title) == ("failure", "Rejected before anything was run")


def test_withdrawing_cancels(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    withdraw(actor=room.world.ann, submission_id=head.submission.pk)
    assert check_of(room).fields.conclusion == "cancelled"


@pytest.mark.parametrize("kind", ["suspicious", "disputed"])
def test_nothing_is_told_while_a_maintainer_has_to_decide(room: Room, kind: str) -> None:
    head = room.submitted()
    assert head.submission is not None
    if kind == "suspicious":
        room.world.gate(head.submission, 3.0)
    else:
        room.world.gate(head.submission, 0.0)
        file_dispute(actor=room.world.ann, submission_id=head.submission.pk, text="It was noisy.")
    fields = check_of(room).fields
    assert fields.status == "in_progress" and not fields.conclusion
    assert "%" not in fields.summary and "suspicious" not in f"{fields.title}{fields.summary}".casefold()


def test_code_that_nobody_measured_asks_for_an_action(room: Room) -> None:
    head = room.confirmed(unmeasured_paths=["setup.py", "ci/`x` @octocat.yml"])
    check = check_of(room)
    assert check.fields.conclusion == "action_required"
    assert "changes code that nobody measured" in check.fields.title
    assert "`setup.py`" in check.fields.summary and "``ci/`x` @octocat.yml``" in check.fields.summary
    tell(room)
    assert wanted_checks(room.read()) == []
    Head.objects.filter(pk=head.pk).update(unmeasured_accepted_at=timezone.now())
    after = check_of(room)
    assert (after.subject, after.fields.conclusion) == ("again:2", "success")
    assert after.fields.name != check.fields.name


def test_a_regression_with_unmeasured_code_stays_a_failure(room: Room) -> None:
    head = room.submitted(unmeasured_paths=["setup.py"])
    assert head.submission is not None
    room.world.gate(head.submission, -0.3)
    assert check_of(room).fields.conclusion == "failure"


def test_review_merge_and_vesting_are_no_further_check_run(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    assert [check.subject for check in tell(room)] == ["verdict"]
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    assert wanted_checks(room.read()) == []
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    assert find_submission(head.submission.pk).state == "vested"
    assert wanted_checks(room.read()) == []


def test_a_reversal_is_a_second_check_run(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    (green,) = tell(room)
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    reverse(
        actor=room.world.ruth, submission=find_submission(head.submission.pk), reason="It caches answers."
    )
    (red,) = wanted_checks(room.read())
    assert (green.subject, green.fields.conclusion) == ("verdict", "success")
    assert (red.subject, red.fields.conclusion) == ("again:2", "failure")
    assert "It caches answers." in red.fields.summary
    assert red.fields.name not in ("", green.fields.name)
    tell(room)
    assert wanted_checks(room.read()) == []


def test_an_award_restored_is_a_third_check_run(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    tell(room)
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    reverse(actor=room.world.ruth, submission=find_submission(head.submission.pk), reason="Reverted.")
    tell(room)
    submission = find_submission(head.submission.pk)
    note(submission, old=submission.state, new=submission.state, reason="asked whether it is restored")
    assert wanted_checks(room.read()) == []
    restore(actor=room.world.ruth, submission=find_submission(head.submission.pk), reason="It landed again.")
    (green,) = tell(room)
    assert (green.subject, green.fields.conclusion) == ("again:3", "success")
    assert wanted_checks(room.read()) == []


def test_a_note_in_its_history_is_no_further_check_run(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    room.world.gate(head.submission, 0.0)
    tell(room)
    submission = find_submission(head.submission.pk)
    note(submission, old=submission.state, new=submission.state, reason="the branch has its change")
    assert wanted_checks(room.read()) == []


def test_a_head_that_lost_its_submission_after_the_verdict_keeps_its_check_run(room: Room) -> None:
    """A newer commit with the same change takes the submission over, and gets a check run of its own."""
    old = room.confirmed()
    tell(room)
    submission = old.submission
    Head.objects.filter(pk=old.pk).update(submission=None, state=HeadState.REPLACED)
    new = room.head(submission)
    (check,) = wanted_checks(room.read())
    assert (check.head, check.subject, check.fields.conclusion) == (new, "verdict", "success")


def test_another_measurement_after_a_dispute_is_a_second_check_run(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    room.world.gate(head.submission, 0.0)
    tell(room)
    dispute = file_dispute(actor=room.world.ann, submission_id=head.submission.pk, text="It was noisy.")
    assert wanted_checks(room.read()) == []
    answer_dispute(actor=room.world.ruth, dispute_id=dispute.pk, answer="remeasure", text="Let us see.")
    assert wanted_checks(room.read()) == []
    for speed_up in (0.3, 0.3, 0.0):
        room.world.gate(find_submission(head.submission.pk), speed_up)
    (check,) = wanted_checks(room.read())
    assert (check.subject, check.fields.conclusion) == ("again:2", "success")


def test_an_upheld_verdict_is_no_second_check_run(room: Room) -> None:
    head = room.submitted()
    assert head.submission is not None
    room.world.gate(head.submission, 0.0)
    tell(room)
    dispute = file_dispute(actor=room.world.ann, submission_id=head.submission.pk, text="It was noisy.")
    answer_dispute(actor=room.world.ruth, dispute_id=dispute.pk, answer="uphold", text="It was quiet.")
    assert wanted_checks(room.read()) == []


def test_another_price_is_a_second_check_run(room: Room) -> None:
    """Bob's gain is booked, so Ann's is priced again against it: the first check run stays as it is."""
    head = room.confirmed()
    (green,) = tell(room)
    bob = room.world.confirmed(room.world.bob, diff_of_line(7, "step_7 = 77"), 0.2)
    review(actor=room.world.ruth, submission_id=bob.pk, decision="accept")
    assert head.submission is not None
    submission = find_submission(head.submission.pk)
    dispute = file_dispute(actor=room.world.ann, submission_id=submission.pk, text="It is worth more.")
    answer_dispute(actor=room.world.mira, dispute_id=dispute.pk, answer="remeasure", text="Let us see.")
    room.world.price(find_submission(submission.pk), 0.2)
    assert find_submission(submission.pk).state == "confirmed"
    (again,) = wanted_checks(room.read())
    assert (again.subject, again.fields.conclusion) == ("again:2", "success")
    assert again.fields.title != green.fields.title


@pytest.mark.parametrize(
    ("fields", "state", "conclusion"),
    [
        ({"state": HeadState.SEEN}, "open", ""),
        ({"state": HeadState.SEALED}, "open", ""),
        ({"state": HeadState.WAITING, "problem": "Rebase on tree abc."}, "open", ""),
        ({"state": HeadState.REFUSED, "problem": "Rebase on tree abc."}, "open", "action_required"),
        ({"state": HeadState.REPLACED}, "open", "cancelled"),
        (
            {"diff_blob": "", "state": HeadState.SEALED, "problem": f"{NOTHING_CHANGED}model/, so."},
            "open",
            "neutral",
        ),
        ({"state": HeadState.SEALED, "diff_blob": "", "is_of_queue": True}, "open", "neutral"),
        ({"state": HeadState.SEALED}, "closed", "cancelled"),
        ({"state": HeadState.WAITING}, "merged", "neutral"),
    ],
)
def test_a_head_without_a_submission(room: Room, fields: dict[str, str], state: str, conclusion: str) -> None:
    room.changed(state=PullRequestState(state))
    room.head(**fields)
    found = check_of(room).fields
    assert found.conclusion == conclusion
    assert found.status == ("completed" if conclusion else "queued")
    if fields.get("problem", "").startswith("Rebase"):
        assert "Rebase on tree abc." in found.summary


def test_words_of_people_are_not_markup(room: Room) -> None:
    room.head(state=HeadState.REFUSED, problem="</p> @octocat fixes #34 https://evil.example ![x](y)")
    summary = check_of(room).fields.summary
    for wrong in ("@octocat", "#34", "https://", "![x]", "</p>"):
        assert wrong not in summary


def test_a_check_run_stays_under_githubs_limit_whatever_was_written(room: Room) -> None:
    paths = [f"$`|`{number}" * 80 for number in range(200)]
    room.head(state=HeadState.REFUSED, problem="$@" * 9000, unmeasured_paths=paths)
    room.submitted(unmeasured_paths=paths)
    for check in wanted_checks(room.read()):
        assert len(check.fields.title) <= 255
        assert max(len(check.fields.summary), len(check.fields.text)) < 65_535
        assert check.fields.summary.count("<span>") == check.fields.summary.count("</span>")


def test_a_final_check_run_never_changes_in_the_database(room: Room) -> None:
    room.confirmed()
    tell(room)
    for change in (
        {"outcome": "other"},
        {"is_final": False, "outcome": "", "final_fields": None},
        {"final_fields": {}},
    ):
        with pytest.raises(IntegrityError, match="never changes"), transaction.atomic():
            Report.objects.update(**change)
    Report.objects.update(sent_at=timezone.now(), sent_digest="e" * 64)
