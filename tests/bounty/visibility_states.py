"""Submissions in each state in which they are looked at, as the walker of all routes makes them."""

from collections.abc import Callable
from typing import Any

from bounty.models import NextStep, Run, Submission, SubmissionState
from bounty.services.awards.lifecycle import reverse
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.runs.logs import append_log
from bounty.services.runs.maintenance import cancel_run
from bounty.services.submissions import find_submission, withdraw
from bounty.visibility import Phase
from tests.bounty.bounty_world import World, diff_of_line, make_user

MARK = "secret_of_the_patch"
PRINTED = "printed_by_the_patch"
DIFF = diff_of_line(3, f"{MARK} = 33")
SUSPICIOUS = [{"kind": "suspicious", "detail": "odd", "side": "candidate"}]


def judged(world: World, speed_up_log: float, **how: Any) -> Submission:
    """A submission whose gate has its verdict, with a line that its code printed."""
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    printed(run)
    submission = find_submission(submission.pk)
    world.finish(run, speed_up_log, **how)
    return world.advance(submission)


def printed(run: Run) -> None:
    assert run.lease is not None and run.runner_id is not None
    append_log(run_id=run.pk, lease=run.lease, runner_id=run.runner_id, offset=0, text=f"{PRINTED}\n")


def queued(world: World) -> Submission:
    return world.submit(world.ann, DIFF)


def confirming(world: World) -> Submission:
    return judged(world, 0.3)


def guarding(world: World) -> Submission:
    """Its guard run is with a runner, and has measured more looks than a gate has."""
    submission = world.gate(judged(world, 0.3), 0.3)
    run = world.lease()
    world.commit(run)
    printed(run)
    submission.runs.update(pairs_done=48)
    return submission


def awaiting_escrow(world: World) -> Submission:
    """Its gate has passed, and another person's, sealed earlier, has reserved all of the escrow."""
    small = world.open(title="Enough for one", escrow_microcredits=1_000_000)
    first = world.submit(world.bob, diff_of_line(7, "step_7 = 77"), small)
    submission = world.gate_all(0.3, first, world.submit(world.ann, DIFF, small))[1]
    assert submission.next_step == NextStep.AWAIT_ESCROW
    return submission


def waiting_copy(world: World) -> Submission:
    """A copy in its form of another person's, which is being measured."""
    world.submit(make_user("cara"), DIFF.replace("33", "33  # first"))
    world.commit(world.lease())
    submission = world.submit(world.ann, DIFF)
    assert submission.state == SubmissionState.CHECKED and submission.copy_of is not None
    return submission


def priced_again(world: World) -> Submission:
    """Its new price is measured, and the guard rails are not."""
    submission = confirmed(world)
    dispute = file_dispute(actor=world.ann, submission_id=submission.pk, text="It is faster at home.")
    answer_dispute(actor=world.mira, dispute_id=dispute.pk, answer="remeasure", text="Let us see.")
    submission = world.gate(find_submission(submission.pk), 0.25)
    assert submission.state == SubmissionState.CONFIRMING
    return submission


def suspicious(world: World) -> Submission:
    return judged(world, 0.3, events=SUSPICIOUS)


def disputed(world: World) -> Submission:
    submission = judged(world, 0.0)
    file_dispute(actor=world.ann, submission_id=submission.pk, text="It is faster at home.")
    return find_submission(submission.pk)


def failed(world: World) -> Submission:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    printed(run)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the disk is full")
    return world.advance(submission)


def withdrawn(world: World) -> Submission:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    printed(run)
    return withdraw(actor=world.ann, submission_id=submission.pk)


def rejected(world: World) -> Submission:
    return world.submit(world.ann, DIFF.replace("model/", "tests/"))


def no_gain(world: World) -> Submission:
    return judged(world, 0.0)


def confirmed(world: World) -> Submission:
    return world.guard(world.gate(judged(world, 0.3), 0.3))


def declined(world: World) -> Submission:
    submission = confirmed(world)
    return review(actor=world.ruth, submission_id=submission.pk, decision="decline")


def accepted(world: World) -> Submission:
    submission = confirmed(world)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    submission = world.advance(submission)
    assert submission.state == SubmissionState.ACCEPTED
    return submission


def vested(world: World) -> Submission:
    return merge(actor=world.mira, submission_id=accepted(world).pk)


def reversed_(world: World) -> Submission:
    return reverse(actor=world.mira, submission=vested(world), reason="it was a mistake")


STATES: dict[str, tuple[Callable[[World], Submission], Phase]] = {
    "queued": (queued, Phase.BEING_JUDGED),
    "confirming": (confirming, Phase.BEING_JUDGED),
    "guarding": (guarding, Phase.BEING_JUDGED),
    "awaiting escrow": (awaiting_escrow, Phase.BEING_JUDGED),
    "waiting copy": (waiting_copy, Phase.BEING_JUDGED),
    "priced again": (priced_again, Phase.BEING_JUDGED),
    "suspicious": (suspicious, Phase.IN_DOUBT),
    "disputed": (disputed, Phase.IN_DOUBT),
    "failed": (failed, Phase.FAILED),
    "withdrawn": (withdrawn, Phase.CLOSED),
    "rejected": (rejected, Phase.CLOSED),
    "no gain": (no_gain, Phase.DECIDED),
    "confirmed": (confirmed, Phase.DECIDED),
    "declined": (declined, Phase.DECIDED),
    "accepted": (accepted, Phase.DECIDED),
    "vested": (vested, Phase.DECIDED),
    "reversed": (reversed_, Phase.DECIDED),
}
