"""Reproductions of a bug: adoption, failures, and declined ones."""

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.evidence.document import seal
from benchmarks.evidence.signing import generate_key
from bounty.errors import (
    AlreadyJudged,
    AlreadyReproduced,
    BadRequest,
    EvidenceRefused,
    NotAllowed,
    NotReproduced,
    TooManyAttempts,
    WrongState,
)
from bounty.models import Reproduction, ReproductionState, Run, RunKind
from bounty.services.awards.advance import advance_submission
from bounty.services.reconcile import reconcile_runs
from bounty.services.reproductions import decline, settle
from bounty.services.reviews import rejudge
from bounty.services.runs.maintenance import cancel_run, rerun
from bounty.services.runs.queues import waiting_order
from tests.bounty.bounty_world import job_of
from tests.bounty.bug_world import FIX, OTHER_FIX, TEXT, BugWorld, trials_of
from tests.bounty.synthetic import invented_document


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def test_the_first_reproduction_is_the_bountys_and_fixes_are_judged_with_it(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    run = Run.objects.get(reproduction=made)
    assert (run.kind, run.base_tree_id, run.candidate_tree_id) == (
        "reproduction",
        world.tree.pk,
        world.tree.pk,
    )
    assert waiting_order(hardware="cpu") == [run.pk]
    world.try_out()
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.ADOPTED, "gain")
    submission = world.submit(world.bob, FIX, world.bug)
    fix = submission.runs.get()
    assert (fix.kind, fix.reproduction) == (RunKind.FIX, made)


def test_a_fix_before_the_bug_is_reproduced_is_refused(world: BugWorld) -> None:
    with pytest.raises(NotReproduced, match="Submit a reproduction first"):
        world.submit(world.bob, FIX, world.bug)
    world.reproduce(world.ann)  # not tried yet
    with pytest.raises(NotReproduced):
        world.submit(world.bob, FIX, world.bug)


@pytest.mark.parametrize(
    ("outcome", "kind", "words"),
    [("holds", "no_gain", "Does not reproduce"), ("broken", "build_failed", "work")],
)
def test_what_shows_nothing_is_refused_with_the_reason(
    outcome: str, kind: str, words: str, world: BugWorld
) -> None:
    made = world.reproduce(world.ann)
    world.try_out(base=outcome)
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.REFUSED, kind)
    assert words in made.verdict_reason
    with pytest.raises(AlreadyJudged):
        world.reproduce(world.bob)  # the very same file
    world.reproduce(world.ann, TEXT + "# seeded now\n")


def test_sealed_order_decides_who_was_first_not_whose_run_ends_sooner(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    slow = world.lease()
    mine = world.runner, world.key
    world.key = generate_key()
    world.runner, _ = world.add_runner(world.key, host="two")
    assert world.try_out().reproduction == second
    assert settle(reproduction_id=second.pk).state == ReproductionState.REPRODUCED
    world.runner, world.key = mine
    assert slow.reproduction == first
    world.try_out()  # its runner was restarted
    assert settle(reproduction_id=first.pk).state == ReproductionState.ADOPTED
    assert settle(reproduction_id=second.pk).state == ReproductionState.REPRODUCED


def test_the_next_in_order_comes_first_when_an_earlier_one_shows_nothing(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    world.try_out(base="holds")
    world.try_out()
    reconcile_runs()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (ReproductionState.REFUSED, ReproductionState.ADOPTED)
    with pytest.raises(AlreadyReproduced):
        world.reproduce(world.ann, TEXT + "\n\n")


def test_a_maintainer_says_that_it_is_no_bug_and_the_next_one_takes_its_place(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    world.try_out()
    world.try_out()
    reconcile_runs()
    with pytest.raises(NotAllowed):
        decline(actor=world.bob, reproduction_id=first.pk, reason="mine is better")
    with pytest.raises(BadRequest):
        decline(actor=world.ruth, reproduction_id=first.pk, reason=" ")
    submission = world.submit(world.bob, FIX, world.bug)
    with pytest.raises(WrongState, match="being judged"):
        decline(actor=world.ruth, reproduction_id=first.pk, reason="it always fails")
    world.try_out(candidate="refused")
    advance_submission(submission_id=submission.pk)
    for _ in range(2):
        assert (
            decline(actor=world.ruth, reproduction_id=first.pk, reason="it always fails").state == "declined"
        )
    second.refresh_from_db()
    assert second.state == ReproductionState.ADOPTED


def test_evidence_of_a_weak_sandbox_reproduces_nothing(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    world.try_out(level="none")
    made = settle(reproduction_id=made.pk)
    assert made.state == ReproductionState.REFUSED and "sandbox" in made.verdict_reason


def test_evidence_about_another_reproduction_is_refused(world: BugWorld) -> None:
    world.reproduce(world.ann)
    run = world.lease()
    world.commit(run)
    trials = trials_of("reproduction", base="refused", candidate="")
    document = invented_document(run=job_of(run), units=0, trials=trials, reproduction="b" * 64)
    with pytest.raises(EvidenceRefused, match="reproduction"):
        world.record(run, seal(document, world.key))


def test_attempts_are_limited_and_files_bounded(world: BugWorld) -> None:
    few = world.open_bug(max_attempts=1)
    with pytest.raises(BadRequest, match="16384"):
        world.reproduce(world.ann, "#" * 20_000, few)
    with pytest.raises(BadRequest, match="empty"):
        world.reproduce(world.ann, "", few)
    with pytest.raises(BadRequest, match="not for a bug"):
        world.reproduce(world.ann, TEXT, world.bounty)
    world.reproduce(world.ann, TEXT, few)
    with pytest.raises(TooManyAttempts):
        world.reproduce(world.ann, TEXT + "\n", few)


def test_the_platforms_failure_is_no_attempt_and_the_file_may_come_again(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    run = Run.objects.get(reproduction=made)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the runner is moved")
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.REFUSED, "infrastructure_error")
    with pytest.raises(WrongState, match="submits it again"):
        rerun(actor=world.mira, run_id=run.pk, reason="again")
    assert world.adopted().state == ReproductionState.ADOPTED


def test_a_sealed_reproduction_never_changes(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    for changed in ({"blob": "b" * 64}, {"author": world.bob}, {"earns": False}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Reproduction.objects.filter(pk=made.pk).update(**changed)
    with pytest.raises(IntegrityError), transaction.atomic():
        connection.cursor().execute("DELETE FROM bounty_reproduction")


def test_nothing_is_tried_with_a_declined_reproduction(world: BugWorld) -> None:
    made = world.adopted()
    submission = world.fix(base="broken")
    assert submission.verdict_kind == "suspicious"
    decline(actor=world.ruth, reproduction_id=made.pk, reason="it always fails")
    with pytest.raises(NotReproduced):
        rejudge(actor=world.mira, submission_id=submission.pk)
    with pytest.raises(NotReproduced):
        world.submit(world.ann, OTHER_FIX, world.bug)
    world.adopted(world.bob, TEXT + "\n")
    rejudge(actor=world.mira, submission_id=submission.pk)
    assert world.try_out().reproduction != made


def test_a_reproduction_that_was_paid_is_not_declined_any_more(world: BugWorld) -> None:
    made = world.adopted()
    world.paid(world.fix())
    with pytest.raises(WrongState):
        decline(actor=world.ruth, reproduction_id=made.pk, reason="late")
