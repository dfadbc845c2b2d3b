"""Runs a submission's due steps, one after another."""

from uuid import UUID

from bounty.models import Submission, SubmissionState
from bounty.services.awards.fixes import FIX
from bounty.services.awards.gains import GAIN
from bounty.services.awards.repricing import advance_repricings_of
from bounty.services.awards.steps import take_step
from bounty.services.series.sealed_order import wake_later
from bounty.services.submissions import find_submission
from bounty.services.wakeups import wake_control

MAX_STEPS = 12  # more than any submission has; reaching it is a bug


def advance_submission(*, submission_id: UUID) -> Submission:
    """Do every step that can be done now, and wake those of its series that may wait for it. Raises NotFound."""
    before = find_submission(submission_id)
    for _ in range(MAX_STEPS):
        submission = find_submission(submission_id)
        if not take_step(submission, FIX if submission.bounty.is_for_a_bug else GAIN):
            break
    advance_repricings_of(submission_id=submission_id)
    after = find_submission(submission_id)
    if (after.state, after.next_step) != (before.state, before.next_step):
        wake_later(after)
        for copy in after.copies.filter(state=SubmissionState.CHECKED):
            wake_control(submission_id=copy.pk)
    return after
