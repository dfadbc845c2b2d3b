"""Merges that had to wait for a stop to be lifted, done by beat. That they wait is in `waiting_merges`."""

import logging

from bounty.errors import BountyError
from bounty.models import Switch, WaitingMerge
from bounty.services.reviews import merge
from bounty.services.switches import is_stopped
from bounty.services.transitions import note

logger = logging.getLogger(__name__)


def merge_waiting() -> int:
    """Do what waited, in the order asked for, once merges are not stopped. How many were merged.

    One that cannot be merged any more waits no longer; its history says why.
    """
    merged = 0
    for waiting in WaitingMerge.objects.select_related("submission", "actor"):
        if is_stopped(Switch.MERGES):
            break
        try:
            done = merge(actor=waiting.actor, submission_id=waiting.submission_id)
        except BountyError as error:
            logger.warning("the merge of %s that waited is refused: %s", waiting.submission_id, error.message)
            row = waiting.submission
            note(
                row, old=row.state, new=row.state, reason=f"not merged: {error.message}", actor=waiting.actor
            )
        else:
            if done.merged_at is None:
                continue  # stopped again in between
            merged += 1
        waiting.delete()
    return merged
