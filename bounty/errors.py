"""Errors of the bounty app, each with a stable code, an HTTP status and a message that says what to do."""

from typing import Self
from uuid import UUID

from gainshare.accounts.errors import DomainError


class BountyError(DomainError):
    """Base of this app's errors. When one is raised, nothing was changed."""

    code = "bounty_refused"
    status = 409


class BadRequest(BountyError):
    """A field that cannot be used."""

    code = "invalid"
    status = 400


class NotFound(BountyError):
    code = "not_found"
    status = 404


class NotAllowed(BountyError):
    """The actor's role, or their part in this submission, does not allow it."""

    code = "not_allowed"
    status = 403


class Sealed(BountyError):
    """A part of a submission that is sealed until the submission is decided."""

    code = "sealed"
    status = 403


class WrongState(BountyError):
    """The subject is not in a state from which this can be done."""

    code = "wrong_state"


class BountyClosed(BountyError):
    code = "bounty_closed"


class NoRunner(BountyError):
    """No runner has the bounty's hardware, so nothing could be judged; the caller may accept that."""

    code = "no_runner"


class EscrowUsedUp(BountyError):
    """All of the bounty's escrow is paid or reserved."""

    code = "escrow_exhausted"


class TooManyAttempts(BountyError):
    code = "too_many_attempts"
    status = 429


class AlreadyDisputed(BountyError):
    """The verdict has an open dispute."""

    code = "already_disputed"


class TooManyDisputes(BountyError):
    code = "too_many_disputes"
    status = 429


class WrongBase(BountyError):
    """The diff is against another tree than the one that is best or merged now."""

    code = "rebase"


class NotApplicable(BountyError):
    """The diff cannot be read, is not allowed, or does not apply to the tree that counts."""

    code = "not_applicable"


class OldLayout(BountyError):
    """The tree has the layout of an older version of the stack, which the judge cannot measure."""

    code = "old_layout"


class BaseFailed(BountyError):
    """The lineage's base tree fails on its own, so nothing is measured against it."""

    code = "base_failed"


class OwnEarlier(BountyError):
    """The same candidate was submitted by the same person before: `submission_id` is that one."""

    submission_id: UUID | None = None

    def of(self, submission_id: UUID) -> Self:
        """This error with the submission that it is about."""
        self.submission_id = submission_id
        return self


class AlreadySubmitted(OwnEarlier):
    """The same candidate is being judged."""

    code = "already_submitted"


class AlreadyJudged(OwnEarlier):
    """The same candidate was already judged against the same base."""

    code = "already_judged"


class NotReproduced(BountyError):
    """The bug has no reproduction yet, so no fix of it can be judged."""

    code = "not_reproduced"


class AlreadyReproduced(BountyError):
    """The bug has its reproduction."""

    code = "already_reproduced"


class TipMoved(BountyError):
    """The lineage moved on since the candidate was measured, so a merge would not be the measured tree."""

    code = "tip_moved"


class NotLeasable(BountyError):
    code = "not_leasable"


class NotOffered(NotLeasable):
    """The runner's device belongs to the pool, which does not lend it now."""


class LeaseLost(BountyError):
    code = "lease_lost"


class Stopped(BountyError):
    """A maintainer has pressed the emergency stop."""

    code = "stopped"


class LogGap(BountyError):
    """A part of a log does not start where the received log ends."""

    code = "log_gap"


class EvidenceRefused(BountyError):
    """The evidence is not valid; the run is queued again."""

    code = "evidence_refused"
    status = 422


class EvidenceConflict(BountyError):
    """The run has its verdict from other evidence."""

    code = "already_recorded"


class CommitmentConflict(BountyError):
    """This attempt has committed to other secrets already."""

    code = "already_committed"
