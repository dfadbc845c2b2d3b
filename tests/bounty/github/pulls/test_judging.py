"""Which head becomes a submission, what takes a queued one's place, and what that costs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from bounty.models import Head, PullRequest, Submission
from bounty.services.submissions import attempts_used, withdraw
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, PAM, QUINN, Pulls, experts


def test_an_opened_pull_request_is_sealed_and_submitted(pulls: Pulls) -> None:
    sha = pulls.commit()
    pull = pulls.opened(sha)
    head = pulls.head(sha)
    submission = head.submission
    assert submission is not None
    assert (head.state, pull.problem, pull.bounty) == ("submitted", "", pulls.world.bounty)
    assert (submission.submitter, submission.state) == (pulls.world.ann, "queued")
    assert submission.sealed_at == head.sealed_at == pull.opened_at
    assert head.merge_base == pulls.bound.first and head.tree == submission.candidate_tree


def test_a_draft_is_sealed_and_not_judged_until_it_is_none(pulls: Pulls) -> None:
    sha = pulls.commit()
    pull = pulls.opened(sha, is_draft=True)
    assert (pulls.head(sha).state, Submission.objects.count()) == ("sealed", 0)
    assert attempts_used(bounty=pulls.world.bounty, person=pulls.world.ann) == 0
    sealed_at = pulls.head(sha).sealed_at
    pulls.pushed(pull, sha)
    submission = pulls.head(sha).submission
    assert submission is not None and submission.sealed_at == sealed_at


def test_a_later_head_is_judged_only_when_asked_for(pulls: Pulls) -> None:
    first, second = pulls.commit(), pulls.commit(files={EXPERTS_PATH: experts(step_3="step_3 = 34")})
    pull = pulls.opened(first)
    pulls.world.judge(-0.1)
    pulls.world.advance(Submission.objects.get())
    pulls.pushed(pull, second)
    assert (pulls.head(second).state, Submission.objects.count()) == ("sealed", 1)
    command = pulls.say(pull, "/judge")
    assert command.state == "done" and pulls.head(second).state == "submitted"
    assert Submission.objects.count() == 2


def test_a_newer_head_takes_a_queued_ones_place(pulls: Pulls) -> None:
    first, second = pulls.commit(), pulls.commit(files={EXPERTS_PATH: experts(step_3="step_3 = 34")})
    pull = pulls.opened(first)
    old = pulls.head(first).submission
    assert old is not None
    pulls.pushed(pull, second)
    old.refresh_from_db()
    assert (old.state, pulls.head(first).state, pulls.head(second).state) == (
        "withdrawn",
        "replaced",
        "submitted",
    )
    assert attempts_used(bounty=pulls.world.bounty, person=pulls.world.ann) == 1


def test_a_newer_head_waits_while_an_older_one_is_measured(pulls: Pulls) -> None:
    first, second = pulls.commit(), pulls.commit(files={EXPERTS_PATH: experts(step_3="step_3 = 34")})
    pull = pulls.opened(first)
    run = pulls.world.lease()
    pulls.world.commit(run)
    pulls.pushed(pull, second)
    assert pulls.head(second).state == "sealed"
    pulls.say(pull, "/judge")
    pull.refresh_from_db()
    assert pulls.head(second).state == "waiting" and "is being measured" in pull.problem
    pulls.world.finish(run, -0.1)
    pulls.world.advance(Submission.objects.get())
    pulls.advance(pull)
    assert pulls.head(second).state == "submitted"


def test_after_a_passed_gate_nothing_is_withdrawn(pulls: Pulls) -> None:
    first, second = pulls.commit(), pulls.commit(files={EXPERTS_PATH: experts(step_3="step_3 = 34")})
    pull = pulls.opened(first)
    pulls.world.gate(Submission.objects.get(), 0.3)
    pulls.pushed(pull, second)
    pulls.say(pull, "/judge")
    pulls.advance(pulls.see(pulls.facts(second, state="closed", updated_at=pulls.later())))
    assert Submission.objects.get().state == "confirming"


def test_the_same_change_in_another_commit_keeps_its_place(pulls: Pulls) -> None:
    first, second = pulls.commit(message="a"), pulls.commit(message="b")
    pull = pulls.opened(first)
    pulls.pushed(pull, second)
    submission = Submission.objects.get()
    assert (pulls.head(second).submission, pulls.head(first).submission) == (submission, None)
    assert submission.state == "queued"


def test_what_its_author_submitted_privately_before_is_the_same_submission(pulls: Pulls) -> None:
    private = pulls.world.submit(pulls.world.ann, diff_of_line(3, "step_3 = 33"))
    sha = pulls.commit()
    pulls.opened(sha)
    assert pulls.head(sha).submission == private and Submission.objects.count() == 1


def test_a_closed_pull_request_is_withdrawn_and_judged_again_when_it_is_reopened(pulls: Pulls) -> None:
    sha = pulls.commit()
    pull = pulls.opened(sha)
    pulls.pushed(pull, sha, state="closed")
    assert Submission.objects.get().state == "withdrawn" and pulls.head(sha).state == "sealed"
    pulls.pushed(pull, sha)
    submission = pulls.head(sha).submission
    assert submission is not None and submission.state == "queued"
    assert attempts_used(bounty=pulls.world.bounty, person=pulls.world.ann) == 1


def test_where_it_does_not_apply_it_names_the_pull_request_to_rebase_on_at_no_cost(pulls: Pulls) -> None:
    winner = pulls.commit(1)
    pulls.opened(winner)
    submission = Submission.objects.get()
    pulls.world.gate(submission, 0.3)
    pulls.world.price(submission, 0.3)
    other = pulls.commit(2, files={EXPERTS_PATH: experts(step_3="step_3 = 34")})
    pull = pulls.opened(other, 2, author=QUINN)
    PullRequest.objects.filter(pk=pull.pk).update(needs_judge_command=False)
    pull = pulls.advance(pull)
    assert "does_not_apply" in pull.problem and "acme/model#1" in pull.problem
    assert pulls.head(other).state == "waiting" and Submission.objects.count() == 1


def test_a_new_author_waits_for_somebodys_word(pulls: Pulls) -> None:
    sha = pulls.commit()
    pull = pulls.opened(sha, author=QUINN)
    assert pull.needs_judge_command and "first pull request" in pull.problem
    assert (pulls.head(sha).state, Submission.objects.count()) == ("waiting", 0)
    command = pulls.say(pull, "/judge", author=QUINN)
    assert command.state == "refused" and "Somebody else" in command.answer
    assert Submission.objects.count() == 0


def test_a_copied_draft_earns_its_copier_nothing(pulls: Pulls) -> None:
    draft = pulls.commit()
    pull = pulls.opened(draft, is_draft=True)
    copy = pulls.world.submit(pulls.world.bob, diff_of_line(3, "step_3 = 33"))
    assert copy.state == "rejected" and "acme/model#1" in copy.verdict_reason
    reformatted = pulls.world.submit(pulls.world.bob, diff_of_line(3, "step_3  =  33  # mine"))
    assert reformatted.state == "rejected"
    pulls.pushed(pull, draft)
    original = pulls.head(draft).submission
    assert original is not None and original.state == "queued"


def test_a_copy_that_was_queued_before_the_draft_was_read_ends_when_it_is(pulls: Pulls) -> None:
    draft = pulls.commit()
    pull = pulls.see(pulls.facts(draft, is_draft=True))
    copy = pulls.world.submit(pulls.world.bob, diff_of_line(3, "step_3 = 33"))
    assert copy.state == "queued"
    pulls.advance(pull)
    copy.refresh_from_db()
    assert (copy.state, copy.verdict_kind) == (
        "judged",
        "patch_rejected",
    ) and "copy of commit" in copy.verdict_reason
    assert not copy.runs.filter(state__in=["queued", "leased"]).exists()


def test_a_head_that_copies_an_earlier_private_submission_is_decided_with_it(pulls: Pulls) -> None:
    original = pulls.world.submit(pulls.world.bob, diff_of_line(3, "step_3 = 33"))
    sha = pulls.commit()
    opened_at, pushed_at = pulls.now, pulls.later()
    pull = pulls.opened(sha, created_at=opened_at, updated_at=pushed_at)
    copy = pulls.head(sha).submission
    assert copy is not None and (copy.copy_of, copy.state) == (original, "checked") and pull.problem == ""


def test_a_head_sealed_before_a_private_copy_of_it_is_no_copy(pulls: Pulls) -> None:
    """The event came late: the copy was submitted in between."""
    sha = pulls.commit()
    copy = pulls.world.submit(pulls.world.bob, diff_of_line(3, "step_3 = 33"))
    pulls.opened(sha)
    original = pulls.head(sha).submission
    copy.refresh_from_db()
    assert original is not None and original.sealed_at < copy.sealed_at
    assert (original.state, copy.state) == ("queued", "judged")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model/serving/metering/extra.py": "x = 1\n"}, "protected"),
        ({"model/data.bin": "x"}, "of a kind that patches may not touch"),
    ],
)
def test_what_may_not_be_changed_is_refused_without_a_submission(
    pulls: Pulls, files: dict[str, str], said: str
) -> None:
    sha = pulls.commit(files=files)
    pulls.opened(sha)
    assert (pulls.head(sha).state, Submission.objects.count()) == ("refused", 0)
    assert said in pulls.head(sha).problem


def test_where_the_folder_is_not_changed_there_is_nothing_to_judge(pulls: Pulls) -> None:
    docs, fine = pulls.commit(files={"README.md": "only this\n"}), pulls.commit()
    pull = pulls.opened(docs)
    head = pulls.head(docs)
    assert (head.state, head.diff_blob, Submission.objects.count()) == ("sealed", "", 0)
    assert "nothing to measure" in head.problem and "nothing to measure" in pulls.say(pull, "/judge").answer
    pulls.pushed(pull, fine)
    assert pulls.head(fine).state == "submitted"


def test_after_a_refused_head_the_next_one_is_the_first_that_is_judged(pulls: Pulls) -> None:
    refused, fine = pulls.commit(files={"model/serving/metering/extra.py": "x = 1\n"}), pulls.commit()
    pulls.pushed(pulls.opened(refused), fine)
    assert pulls.head(fine).state == "submitted"


def test_files_beside_the_folder_are_measured_by_nobody(pulls: Pulls) -> None:
    files = {
        EXPERTS_PATH: experts(step_3="step_3 = 33"),
        "tests/test_x.py": "",
        "docs/a.rst": "",
        "NOTES.md": "",
    }
    sha = pulls.commit(files={**files, "setup.py": "import os\n", ".github/workflows/ci.yml": "on: push\n"})
    pulls.opened(sha)
    head = pulls.head(sha)
    assert head.unmeasured_paths == [".github/workflows/ci.yml", "setup.py"]
    assert head.state == "submitted"


def test_a_withdrawn_submission_is_not_submitted_again_by_itself(pulls: Pulls) -> None:
    sha = pulls.commit()
    pull = pulls.opened(sha)
    withdraw(actor=pulls.world.ann, submission_id=Submission.objects.get().pk)
    pulls.advance(pull)
    assert Submission.objects.count() == 1
    assert pulls.say(pull, "/judge").state == "done"
    assert Submission.objects.filter(state="queued").count() == 1


def test_looking_again_changes_nothing(pulls: Pulls) -> None:
    pull = pulls.opened(pulls.commit())
    for _ in range(2):
        pulls.advance(pull)
    assert (Submission.objects.count(), Head.objects.count()) == (1, 1)


def test_one_author_seals_a_bounded_number_of_heads_a_day(
    pulls: Pulls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bounty.github.pulls.sealing.HEADS_PER_DAY", 1)
    pull = pulls.opened(pulls.commit(), is_draft=True)
    second = pulls.commit(files={EXPERTS_PATH: experts(step_4="step_4 = 44")})
    pulls.pushed(pull, second, is_draft=True)
    assert pulls.head(second).state == "refused" and "limit" in pulls.head(second).problem
    Head.objects.update(seen_at=timezone.now() - timedelta(days=2))
    third = pulls.commit(files={EXPERTS_PATH: experts(step_5="step_5 = 55")})
    pulls.pushed(pull, third, is_draft=True)
    assert pulls.head(third).state == "sealed"


def test_renamed_authors_stay_who_they_are(pulls: Pulls) -> None:
    sha = pulls.commit()
    pulls.opened(sha, author=type(PAM)(PAM.github_id, "pamela"))
    assert Submission.objects.get().submitter == pulls.world.ann
    thief = pulls.commit(2)
    pull = pulls.opened(thief, 2, author=type(PAM)(999, PAM.login))
    assert pull.author.user != pulls.world.ann and pull.needs_judge_command
