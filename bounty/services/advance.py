"""Runs a submission's due steps, one after another."""

from uuid import UUID

from bounty.models import Submission
from bounty.services.fixes import FIX
from bounty.services.gains import GAIN
from bounty.services.steps import take_step
from bounty.services.submissions import find_submission

MAX_STEPS = 12  # more than any submission has; reaching it is a bug


def advance_submission(*, submission_id: UUID) -> Submission:
    """Do every step that can be done now. Raises NotFound."""
    for _ in range(MAX_STEPS):
        submission = find_submission(submission_id)
        if not take_step(submission, FIX if submission.bounty.is_for_a_bug else GAIN):
            break
    return find_submission(submission_id)
