"""Intake of submissions: accepted and refused diffs, with the reasons."""

import uuid
from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone

from bounty.errors import (
    AlreadyJudged,
    AlreadySubmitted,
    BountyClosed,
    EscrowUsedUp,
    NotAllowed,
    NotFound,
    TooManyAttempts,
    WrongBase,
    WrongState,
)
from bounty.models import Bounty, BountyState, Lineage, RunKind, RunState, Submission, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.bounties import close_bounty
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.runners import calls as runner_calls
from bounty.services.submissions import attempts_used, find_submission, withdraw
from bounty.services.transitions import history
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line, make_user

HEAD = "diff --git a/model/layers/moe/experts.py b/model/layers/moe/experts.py\n"
FILES = "--- a/model/layers/moe/experts.py\n+++ b/model/layers/moe/experts.py\n"

BAD_DIFFS = {
    "empty": ("", "empty"),
    "blank": ("  \n\n", "empty"),
    "no diff at all": ("please make it faster\n", None),
    "cut off": (diff_of_line(3, "step_3 = 33")[:-1], "truncated"),
    "wrong counts": (HEAD + FILES + "@@ -3,2 +3,1 @@\n-step_3 = 3\n+step_3 = 33\n", None),
    "NUL bytes": (diff_of_line(3, "step_3 = '\0'"), "binary"),
    "git binary": (HEAD + "GIT binary patch\nliteral 3\nKcmZQzU|?i`00031\n\n", "binary"),
    "too large": (diff_of_line(3, "#" + "x" * 1_100_000), "too_large"),
    "larger than the policy": (diff_of_line(3, "#" + "x" * 300_000), "too_large"),
    "does not apply": (diff_of_line(3, "step_3 = 33", old="step_3 = 4"), "does_not_apply"),
    "changes nothing": (diff_of_line(3, "step_3 = 3"), None),
    "escapes by ..": (
        "diff --git a/model/../../etc/x.py b/model/../../etc/x.py\nnew file mode 100644\n"
        "--- /dev/null\n+++ b/model/../../etc/x.py\n@@ -0,0 +1,1 @@\n+x = 1\n",
        "path_escape",
    ),
    "absolute path": (
        "diff --git a//etc/x.py b//etc/x.py\nnew file mode 100644\n"
        "--- /dev/null\n+++ b//etc/x.py\n@@ -0,0 +1,1 @@\n+x = 1\n",
        None,
    ),
    "symlink": (
        "diff --git a/model/link.py b/model/link.py\nnew file mode 120000\n"
        "--- /dev/null\n+++ b/model/link.py\n@@ -0,0 +1,1 @@\n+/etc/passwd\n\\ No newline at end of file\n",
        "symlink",
    ),
    "mode change": (HEAD + "old mode 100644\nnew mode 100755\n", "mode_change"),
    "submodule": (
        "diff --git a/model/sub b/model/sub\nnew file mode 160000\n"
        "--- /dev/null\n+++ b/model/sub\n@@ -0,0 +1,1 @@\n+Subproject commit " + "a" * 40 + "\n",
        "submodule",
    ),
    "outside the policy": (
        "diff --git a/benchmarks/judging/judge.py b/benchmarks/judging/judge.py\nnew file mode 100644\n"
        "--- /dev/null\n+++ b/benchmarks/judging/judge.py\n@@ -0,0 +1,1 @@\n+verdict = 'gain'\n",
        "outside",
    ),
    "protected": (
        "diff --git a/model/serving/metering/usage.py b/model/serving/metering/usage.py\nnew file mode 100644\n"
        "--- /dev/null\n+++ b/model/serving/metering/usage.py\n@@ -0,0 +1,1 @@\n+tokens = 0\n",
        "protected",
    ),
    "file type": (
        "diff --git a/model/blob.so b/model/blob.so\nnew file mode 100644\n"
        "--- /dev/null\n+++ b/model/blob.so\n@@ -0,0 +1,1 @@\n+elf\n",
        "file_type",
    ),
    "lone surrogate": (diff_of_line(3, "step_3 = '\ud800'"), "encoding"),
}


@pytest.mark.parametrize("name", BAD_DIFFS)
def test_a_bad_diff_stays_visible_as_rejected_with_its_reason(world: World, name: str) -> None:
    diff, code = BAD_DIFFS[name]
    submission = world.submit(world.ann, diff)
    submission.refresh_from_db()
    assert submission.state == SubmissionState.REJECTED
    assert submission.verdict_kind == "patch_rejected"
    assert len(submission.verdict_reason) > 20
    if code is not None:
        assert submission.verdict_reason.startswith(f"{code}: ")
    assert submission.has_verdict
    assert not submission.runs.exists()
    assert history(submission)[-1].new == SubmissionState.REJECTED


def test_an_unknown_bounty_is_refused(world: World) -> None:
    missing = Bounty(id=uuid.uuid4())
    with pytest.raises(NotFound):
        world.submit(world.ann, diff_of_line(1, "step_1 = 11"), missing)


def test_a_closed_bounty_is_refused_and_its_escrow_goes_back(world: World) -> None:
    before = ledger.totals().treasury
    close_bounty(bounty_id=world.bounty.pk, reason="enough", actor=world.mira)
    with pytest.raises(BountyClosed):
        world.submit(world.ann, diff_of_line(1, "step_1 = 11"))
    assert ledger.totals().treasury == before + world.escrow
    assert not Submission.objects.exists()


def test_a_bounty_past_its_deadline_is_refused(world: World) -> None:
    Bounty.objects.filter(pk=world.bounty.pk).update(deadline_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(BountyClosed):
        world.submit(world.ann, diff_of_line(1, "step_1 = 11"))


def test_only_a_maintainer_closes_a_bounty(world: World) -> None:
    with pytest.raises(NotAllowed):
        close_bounty(bounty_id=world.bounty.pk, reason="mine", actor=world.ann)
    world.bounty.refresh_from_db()
    assert world.bounty.state == BountyState.OPEN


def test_an_exhausted_escrow_is_refused_and_opens_again_when_something_comes_back(db: None) -> None:
    world = World(escrow=1_000_000)
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.gate(first, 0.3)
    with pytest.raises(EscrowUsedUp):
        world.submit(world.bob, diff_of_line(4, "step_4 = 44"))
    world.gate(first, 0.0)  # the confirmation fails: the reservation comes back
    world.bounty.refresh_from_db()
    assert world.bounty.state == BountyState.OPEN
    assert world.submit(world.bob, diff_of_line(4, "step_4 = 44")).state == SubmissionState.QUEUED


def test_a_diff_against_another_tree_is_told_to_rebase(world: World) -> None:
    first = world.vested(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(WrongBase, match=str(first.candidate_tree_id)):
        world.submit(world.bob, diff_of_line(5, "step_5 = 55"), base_tree=world.tree.pk)
    rebased = world.submit(world.bob, diff_of_line(5, "step_5 = 55"), base_tree=first.candidate_tree_id)
    assert rebased.state == SubmissionState.QUEUED


def test_an_unmerged_best_tree_is_what_diffs_must_build_on(world: World) -> None:
    best = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(WrongBase):
        world.submit(world.bob, diff_of_line(5, "step_5 = 55"), base_tree=world.tree.pk)
    assert world.submit(world.bob, diff_of_line(5, "step_5 = 55")).base_tree_id == best.candidate_tree_id


def decided_with(world: World, original: Submission, copy: Submission) -> Submission:
    """A copy waits without a run and without a word on what it copies; it is decided with its original."""
    assert (copy.state, copy.runs.count()) == ("checked", 0)
    assert Client().get(f"/api/v1/submissions/{copy.pk}/").json()["copy_of"] is None
    assert str(original.pk) not in Client().get(f"/submissions/{copy.pk}/").content.decode()
    reconcile_runs()
    assert find_submission(copy.pk).state == "checked"
    world.gate(original, 0.0)
    reconcile_runs()
    return find_submission(copy.pk)


def test_a_copy_of_what_is_withdrawn_unmeasured_is_judged_itself(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    copy, third = (
        world.submit(who, diff_of_line(3, "step_3 = 33 # mine")) for who in (world.bob, make_user("cy"))
    )
    withdraw(actor=world.ann, submission_id=first.pk)
    reconcile_runs()
    copy, third = find_submission(copy.pk), find_submission(third.pk)
    assert (copy.state, copy.copy_of, copy.runs.get().kind) == ("queued", None, "gate")
    assert third.state == "checked"  # now it is the copy of Bob's
    world.gate(copy, 0.0)
    reconcile_runs()
    third = find_submission(third.pk)
    assert (third.state, third.copy_of_id) == ("rejected", copy.pk)


def test_a_copy_of_what_is_withdrawn_after_its_first_sample_earns_nothing(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    copy = world.submit(world.bob, diff_of_line(3, "step_3 = 33"))
    world.commit(world.lease())
    withdraw(actor=world.ann, submission_id=first.pk)
    reconcile_runs()
    assert find_submission(copy.pk).state == "rejected"


def test_a_copy_that_waits_can_be_withdrawn(world: World) -> None:
    world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    copy = world.submit(world.bob, diff_of_line(3, "step_3 = 33"))
    assert withdraw(actor=world.bob, submission_id=copy.pk).state == "withdrawn"
    assert attempts_used(bounty=world.bounty, person=world.bob) == 0


def test_a_copy_of_another_persons_submission_earns_nothing(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    dressed = "Faster, I promise\n\n" + diff_of_line(3, "step_3 = 33").replace("diff --git", "diff --git", 1)
    copy = decided_with(world, first, world.submit(world.bob, diff_of_line(3, "step_3 = 33")))
    assert (copy.state, copy.verdict_kind, copy.copy_of_id) == ("rejected", "patch_rejected", first.pk)
    assert "submitted earlier by another person" in copy.verdict_reason
    assert dressed != diff_of_line(3, "step_3 = 33")
    again = world.submit(world.bob, dressed)  # the original is decided: at once
    assert again.state == SubmissionState.REJECTED
    assert not Submission.objects.filter(submitter=world.bob).exclude(state="rejected").exists()


def test_the_same_tree_by_another_diff_is_a_copy_too(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    with_context = HEAD + FILES + "@@ -2,3 +2,3 @@\n step_2 = 2\n-step_3 = 3\n+step_3 = 33\n step_4 = 4\n"
    copy = decided_with(world, first, world.submit(world.bob, with_context))
    assert (copy.state, copy.copy_of_id) == ("rejected", first.pk)
    assert copy.patch_digest != first.patch_digest


@pytest.mark.parametrize(
    "dress",
    ["step_3  =  33  # faster", "step_3 = 33\n+# a comment\n+", "step_3 = 33\n+'a text'\n+pass"],
)
def test_the_same_code_in_another_dress_is_a_copy_too(world: World, dress: str) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    added = 1 + dress.count("\n")
    diff = diff_of_line(3, dress).replace("+3,1 @@", f"+3,{added} @@")
    copy = decided_with(world, first, world.submit(world.bob, diff))
    assert (copy.state, copy.copy_of_id) == ("rejected", first.pk)
    assert copy.patch_digest != first.patch_digest and copy.candidate_tree_id != first.candidate_tree_id


def new_function(body: str, parameter: str = "x") -> str:
    """A diff that adds `model/quick.py` with one function."""
    text = f"def quick({parameter}):\n{body}"
    lines = "".join(f"+{line}\n" for line in text.splitlines())
    path = "model/quick.py"
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1,{len(text.splitlines())} @@\n{lines}"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ("    _ = 0\n    total = x + 1\n    return total\n", "x"),
        ("    first = x\n    total = x + 1\n    return total\n", "x"),
        ("    answer = value + 1\n    return answer\n", "value"),
        ('    """Add one."""\n    total = x + 1\n    pass\n    return total\n', "x"),
    ],
)
def test_an_added_statement_without_effect_or_another_name_makes_no_other_candidate(
    world: World, body: str, parameter: str
) -> None:
    first = world.submit(world.ann, new_function("    total = x + 1\n    return total\n"))
    copy = decided_with(world, first, world.submit(world.bob, new_function(body, parameter)))
    assert (copy.state, copy.copy_of_id) == ("rejected", first.pk)


def test_what_computes_something_else_is_no_copy(world: World) -> None:
    world.submit(world.ann, new_function("    total = x + 1\n    return total\n"))
    other = world.submit(world.bob, new_function("    total = x + 1\n    return total + f(0)\n"))
    assert other.state == "queued" and other.copy_of is None


@pytest.mark.parametrize("migration", ["0007_normal_form", "0029_notes_left_out"])
def test_digests_of_earlier_versions_are_computed_again(world: World, migration: str) -> None:
    first = world.submit(world.ann, new_function("    total = x + 1\n    return total\n"))
    digest = first.code_digest
    Submission.objects.filter(pk=first.pk).update(code_digest="0" * 64)
    import_module(f"bounty.migrations.{migration}").renew_digests(apps, None)
    first.refresh_from_db()
    assert first.code_digest == digest


def test_ones_own_code_in_another_dress_gets_no_second_ticket(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(AlreadySubmitted):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33  # again"))
    world.gate(first, 0.0)
    with pytest.raises(AlreadyJudged):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33  # again"))


def test_other_notes_make_no_other_candidate(world: World) -> None:
    notes = (
        "diff --git a/model/NOTES.md b/model/NOTES.md\nnew file mode 100644\n--- /dev/null\n+++ b/model/NOTES.md\n"
        "@@ -0,0 +1,1 @@\n+Another try.\n"
    )
    diff = diff_of_line(3, "step_3 = 33")
    first = world.submit(world.ann, diff)
    with pytest.raises(AlreadySubmitted):
        world.submit(world.ann, notes + diff)
    assert world.submit(world.bob, notes + diff).copy_of_id == first.pk


def test_what_was_declined_may_come_back_better_commented_and_counts_again(world: World) -> None:
    first = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    review(actor=world.ruth, submission_id=first.pk, decision="decline", comment="say why")
    with pytest.raises(AlreadyJudged):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    again = world.submit(world.ann, diff_of_line(3, "step_3 = 33  # since 33 is faster"))
    assert again.state == SubmissionState.QUEUED
    assert attempts_used(bounty=world.bounty, person=world.ann) == 2


def test_a_change_of_comments_alone_is_an_attempt(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 3  # the third"))
    assert submission.state == SubmissionState.QUEUED
    assert attempts_used(bounty=world.bounty, person=world.ann) == 1


def test_a_platforms_failure_opens_no_way_for_copies(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    for _ in range(3):
        world.judge(0.3, events=[{"kind": "infrastructure_error", "detail": "the disk is full"}])
    first = advance_submission(submission_id=first.pk)
    assert first.verdict_kind == "infrastructure_error"
    assert world.submit(world.bob, diff_of_line(3, "step_3 = 33")).copy_of_id == first.pk
    assert world.submit(world.ann, diff_of_line(3, "step_3 = 33")).state == SubmissionState.QUEUED


def test_a_candidate_is_not_judged_again(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(AlreadySubmitted):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.gate(first, 0.0)
    with pytest.raises(AlreadyJudged, match="no_gain"):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33"))


def test_another_bounty_of_the_same_series_judges_no_candidate_again(world: World) -> None:
    other = world.open(title="The same again")
    world.gate(world.submit(world.ann, diff_of_line(3, "step_3 = 33")), 0.0)
    with pytest.raises(AlreadyJudged):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33"), other)


def test_making_it_slower_and_undoing_that_is_measured_against_the_best_tree(world: World) -> None:
    other = world.open(title="The same again")
    best = world.vested(world.ann, diff_of_line(3, "step_3 = 33"))
    slower = world.submit(world.ann, diff_of_line(3, "step_3 = 3", old="step_3 = 33"), other)
    assert slower.candidate_tree_id == world.tree.pk
    assert slower.runs.get().base_tree_id == best.candidate_tree_id
    withdraw(actor=world.ann, submission_id=slower.pk)
    # Even if the slower tree became the tip, a price must also beat the best tree.
    Lineage.objects.filter(pk=world.lineage.pk).update(tip=world.tree)
    mended = world.submit(world.bob, diff_of_line(4, "step_4 = 44"), other)
    assert mended.base_tree_id == mended.runs.get().base_tree_id == world.tree.pk
    world.gate(mended, 0.3)
    world.gate(mended, 0.3)
    comparison = world.lease()
    assert (comparison.kind, comparison.base_tree_id) == ("comparison", best.candidate_tree_id)
    world.commit(comparison)
    world.finish(comparison, 0.0)
    mended = world.advance(mended)
    assert (mended.state, mended.verdict_kind) == ("judged", "no_gain")
    assert [award.state for award in mended.awards.all()] == ["void"]


def test_a_platforms_failure_is_no_attempt_and_may_be_submitted_again(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    for _ in range(3):
        run = world.lease()
        assert run.lease is not None
        runner_calls.report_failure(
            runner=world.runner, run_id=run.pk, lease=run.lease, code="disk_full", detail="no space"
        )
    first = advance_submission(submission_id=first.pk)
    assert (first.state, first.verdict_kind) == ("judged", "infrastructure_error")
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0
    assert world.submit(world.ann, diff_of_line(3, "step_3 = 33")).state == SubmissionState.QUEUED


def test_attempts_are_limited_per_person(db: None) -> None:
    world = World(terms={"max_attempts": 2})
    world.submit(world.ann, "nonsense\n")
    for line in (1, 2):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    with pytest.raises(TooManyAttempts):
        world.submit(world.ann, diff_of_line(3, "step_3 = 0"))
    assert world.submit(world.bob, diff_of_line(4, "step_4 = 0")).state == SubmissionState.QUEUED


def test_rejections_are_limited_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bounty.services.submissions.MAX_REJECTIONS", 3)
    for number in range(3):
        world.submit(world.ann, f"nonsense {number}\n")
    with pytest.raises(TooManyAttempts):
        world.submit(world.ann, diff_of_line(3, "step_3 = 0"))


def test_withdrawing_before_the_first_sample_is_free(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = withdraw(actor=world.ann, submission_id=submission.pk)
    assert submission.state == SubmissionState.WITHDRAWN
    assert submission.runs.get().state == RunState.LOST
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0
    assert world.submit(world.ann, diff_of_line(3, "step_3 = 33")).state == SubmissionState.QUEUED


def test_withdrawing_after_the_first_sample_counts_and_ends_the_candidate(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.commit(world.lease())
    withdraw(actor=world.ann, submission_id=submission.pk)
    assert attempts_used(bounty=world.bounty, person=world.ann) == 1
    with pytest.raises(AlreadyJudged, match="Withdrawn"):
        world.submit(world.ann, diff_of_line(3, "step_3 = 33"))


def test_a_confirmed_gain_is_not_given_back_to_draw_a_luckier_bound(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(WrongState, match="none whose gate has passed: this one is confirmed"):
        withdraw(actor=world.ann, submission_id=submission.pk)
    award = standing_award(submission)
    assert award is not None
    assert ledger.balance(world.ann).unvested == award.amount_microcredits


def test_a_passed_gate_is_not_given_back_either(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    world.judge(0.3)  # its verdict is recorded; no worker has read it yet
    for _ in range(2):
        with pytest.raises(WrongState, match="none whose gate has passed"):
            withdraw(actor=world.ann, submission_id=submission.pk)
        submission = advance_submission(submission_id=submission.pk)
    assert submission.state == "confirming"


def test_only_the_author_withdraws_and_not_what_is_decided(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    with pytest.raises(NotAllowed):
        withdraw(actor=world.bob, submission_id=submission.pk)
    world.gate(submission, 0.0)
    with pytest.raises(WrongState):
        withdraw(actor=world.ann, submission_id=submission.pk)


def test_a_gate_in_flight_keeps_its_base_and_the_confirmation_takes_the_best_tree(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    second = world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    first, second = world.gate_all(0.4, first, second)
    assert (first.state, second.state) == ("confirming", "confirming")
    waiting = second.runs.filter(state=RunState.QUEUED)
    waiting.update(hardware="elsewhere")  # so that the first one is through before
    first = world.price(first, 0.3)
    assert first.state == SubmissionState.CONFIRMED
    waiting.update(hardware="cpu")
    confirmation = world.lease()
    assert (confirmation.submission_id, confirmation.kind) == (second.pk, RunKind.CONFIRMATION)
    assert confirmation.base_tree_id == first.candidate_tree_id
