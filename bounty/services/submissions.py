"""Intake of submissions: admit, parse, check, apply, compare with earlier ones, queue. And withdrawal.

Whatever can be refused without the diff is refused before it is read, and nothing is stored for a refused one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.patch.layout import missing_modules
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, check_size, load_policy
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import Tree, TreeError, sha256_hex
from bounty.code_digest import code_digest
from bounty.errors import (
    BadRequest,
    BountyClosed,
    EscrowUsedUp,
    NotAllowed,
    NotApplicable,
    NotFound,
    TooManyAttempts,
    WrongBase,
    WrongState,
)
from bounty.limits import MAX_REJECTIONS
from bounty.models import (
    OPEN_RUN_STATES,
    Bounty,
    BountyState,
    Dispute,
    DisputeState,
    Lineage,
    NextStep,
    Run,
    RunKind,
    RunState,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.access import sees
from bounty.services.awards.lifecycle import void_award
from bounty.services.bounties import available_escrow, find_bounty, follow_funds
from bounty.services.reproductions import require_adopted
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.base_stops import require_sound_base
from bounty.services.series.best import measured_base, patch_base
from bounty.services.series.copied_heads import earlier_head, reason_of_copied_head
from bounty.services.series.copies import earlier_copy, has_samples, is_awaited, reason_of_copy
from bounty.services.series.likenesses import note_likeness
from bounty.services.transitions import move, must_move, note
from bounty.services.trees import WAIT_FOR_RENEWAL, blob_store, load_tree, require_present_layout, store_tree
from bounty.services.tries import return_try, spend_try
from bounty.visibility import Part
from gainshare.accounts.models import User

NOT_THEIR_FAULT = (VerdictKind.INFRASTRUCTURE_ERROR, VerdictKind.PATCH_REJECTED)


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of reading a diff: a candidate tree, or the reason for rejecting it.

    ``blobs`` has what is to be stored with it: the diff, unless it is longer than the policy allows, and the
    candidate's new files.
    """

    diff_blob: str
    blobs: StagedBlobs
    patch_digest: str = ""
    candidate: Tree | None = None
    refusal: str = ""
    code_digest: str = ""


def find_submission(submission_id: UUID) -> Submission:
    """The submission with its bounty and lineage; raises NotFound."""
    submission = (
        Submission.objects.select_related("bounty__lineage", "submitter").filter(pk=submission_id).first()
    )
    if submission is None:
        raise NotFound("There is no such submission.")
    return submission


def submit(*, actor: User, bounty_id: UUID, diff: str, base_tree: str | None = None) -> Submission:
    """Submit a diff: it is queued for its gate run, or rejected with a verdict that says why.

    Raises NotFound, BountyClosed, EscrowUsedUp, TooManyAttempts, WrongBase, OldLayout, BaseFailed, NotReproduced, and
    RateLimited after too many rejected diffs, before the diff is read; AlreadySubmitted and AlreadyJudged after it.
    These store nothing. A copy, and a diff that cannot be parsed, allowed or applied, is stored as a rejected
    submission.
    """
    bounty = find_bounty(bounty_id)
    base = _admitted(bounty, actor, base_tree)
    spend_try(actor)
    reading = read_diff(diff=diff, base=load_tree(base))
    submission = _take_in(actor, bounty, base, reading)
    if submission.state != SubmissionState.REJECTED:
        return_try(actor)
    return submission


def submit_head(
    *, actor: User, bounty_id: UUID, diff: str, sealed_at: datetime, take: Callable[[Submission], None]
) -> Submission:
    """Submit the diff of a pull request's head, which was sealed when it was seen: it has its place from then on.

    `take` is called in the transaction that stores the submission; if it raises, nothing is stored. Raises what `submit`
    raises, and NotApplicable with the reason for a diff that `submit` would store as a rejected one.
    """
    bounty = find_bounty(bounty_id)
    base = _admitted(bounty, actor, None)
    reading = read_diff(diff=diff, base=load_tree(base))
    if reading.candidate is None:
        raise NotApplicable(reading.refusal)
    return _take_in(actor, bounty, base, reading, sealed_at=sealed_at, take=take)


def _admitted(bounty: Bounty, actor: User, base_tree: str | None) -> StoredTree:
    """The tree to patch, for an actor who may submit to the bounty now."""
    _require_open(bounty)
    require_sound_base(bounty.lineage)
    _require_attempts(bounty, actor)
    if bounty.is_for_a_bug:
        require_adopted(bounty=bounty)
    return _named_base(bounty, base_tree)


def _take_in(
    actor: User,
    bounty: Bounty,
    base: StoredTree,
    reading: Reading,
    *,
    sealed_at: datetime | None = None,
    take: Callable[[Submission], None] = lambda submission: None,
) -> Submission:
    """Store the submission and order its gate run, under the lock that decides sealed order."""
    with transaction.atomic():
        # The lock decides sealed order, attempts and best tree: one submission at a time per lineage.
        Lineage.objects.select_for_update(no_key=True).get(pk=bounty.lineage_id)
        bounty = Bounty.objects.select_for_update(no_key=True).select_related("lineage").get(pk=bounty.pk)
        _require_open(bounty)
        require_sound_base(bounty.lineage)
        _require_attempts(bounty, actor)
        if base.pk != patch_base(bounty=bounty).pk:
            raise _rebase(bounty)
        submission = Submission(
            bounty=bounty,
            submitter=actor,
            diff_blob=reading.diff_blob,
            patch_digest=reading.patch_digest,
            code_digest=reading.code_digest,
            base_tree=base,
        )
        if sealed_at is not None:
            submission.sealed_at = sealed_at
        if reading.candidate is None:
            return _rejected(submission, reading, reading.refusal)
        candidate = store_tree(tree=reading.candidate, parent=base, created_by=actor)
        against = measured_base(bounty=bounty)
        original = earlier_copy(
            bounty=bounty,
            submitter=actor,
            patch_digest=reading.patch_digest,
            code_digest=reading.code_digest,
            candidate=candidate,
            base=against,
            sealed_at=sealed_at,
        )
        submission.candidate_tree, submission.copy_of = candidate, original
        if refusal := _copies(submission, original):
            _rejected(submission, reading, refusal)
            take(submission)
            return submission
        _store(submission, reading)
        take(submission)
        note_likeness(submission, load_tree(base), reading.candidate)
        move(
            submission,
            to=SubmissionState.CHECKED,
            reason="the diff parses, obeys the policy and applies",
        )
        if original is not None:
            return submission  # decided with the earlier one: `settle_copy`
        move(submission, to=SubmissionState.QUEUED, reason="waits for a runner")
        queue_run(submission=submission, kind=RunKind.GATE, base=against)
    return submission


def _copies(submission: Submission, original: Submission | None) -> str:
    """Why a candidate that was sealed earlier by another person rejects this one now; empty where it does not."""
    if original is not None:
        return "" if is_awaited(original) else reason_of_copy(original)
    head = earlier_head(submission)
    return "" if head is None else reason_of_copied_head(head)


def _store(submission: Submission, reading: Reading) -> None:
    """Store a received diff: first its blobs, because a committed row names only what is stored."""
    reading.blobs.write()
    submission.save(force_insert=True)
    note(submission, old="", new=submission.state, reason="diff received", actor=submission.submitter)
    fault_point("web.submission_stored")


def read_diff(*, diff: str, base: Tree) -> Reading:
    """Parse a diff, check it against the policy and apply it. Stores nothing."""
    data, policy, blobs = diff.encode("utf-8", "surrogatepass"), load_policy(), StagedBlobs(blob_store())
    digest = ""
    try:
        check_size(policy, len(data))
        patch = parse_patch(diff)
        digest = patch.digest
        check_patch(policy, patch)
        candidate = apply_patch(base, patch, blobs)
        if missing := missing_modules(entry.path for entry in candidate.entries):
            return _refused(data, _removes(missing), digest)
        return Reading(blobs.put(data), blobs, digest, candidate, code_digest=code_digest(candidate, blobs))
    except (PatchError, PolicyViolation) as error:
        return _refused(data, f"{error.code}: {error.message}", digest)
    except TreeError as error:  # the platform's own tree or blob is damaged, which is not the diff's fault
        raise BadRequest(error.message, code=error.code, status=500) from None


def _refused(data: bytes, refusal: str, digest: str) -> Reading:
    """A diff that is rejected: its text is kept unless it is longer than any that could be accepted."""
    blobs = StagedBlobs(blob_store())
    is_kept = len(data) <= load_policy().max_bytes
    return Reading(blobs.put(data) if is_kept else sha256_hex(data), blobs, digest, None, refusal)


def _removes(modules: tuple[str, ...]) -> str:
    return (
        f"missing_module: The patched tree has no {', '.join(modules)}, which the judge imports, so it "
        "could not be measured. Keep each of these modules where it is."
    )


def _require_open(bounty: Bounty) -> None:
    if bounty.state == BountyState.CLOSED or bounty.is_past_deadline(timezone.now()):
        raise BountyClosed("The bounty is closed and takes no more submissions. Choose another bounty.")
    if bounty.state == BountyState.EXHAUSTED or available_escrow(bounty) <= 0:
        raise EscrowUsedUp(
            "All of the bounty's escrow is paid or reserved. Wait until some of it returns, or choose "
            "another bounty."
        )


def _named_base(bounty: Bounty, name: str | None) -> StoredTree:
    expected = patch_base(bounty=bounty)
    require_present_layout(expected.pk, instead=WAIT_FOR_RENEWAL)
    if name is not None and name != expected.pk:
        if StoredTree.objects.filter(pk=name).exists():
            again = f"Make the diff against the current tree, {expected.pk}, and submit it again."
            require_present_layout(name, instead=again)
        raise _rebase(bounty)
    return expected


def _rebase(bounty: Bounty) -> WrongBase:
    return WrongBase(
        f"The bounty's tree changed. Fetch tree {patch_base(bounty=bounty).pk}, make the diff against it "
        "and submit again."
    )


def _require_attempts(bounty: Bounty, actor: User) -> None:
    mine = Submission.objects.filter(bounty=bounty, submitter=actor)
    if mine.filter(state=SubmissionState.REJECTED).count() >= MAX_REJECTIONS:
        raise TooManyAttempts(
            f"{MAX_REJECTIONS} of your diffs for this bounty were rejected, which is the limit. You "
            "cannot submit more to it."
        )
    if attempts_used(bounty=bounty, person=actor) >= bounty.max_attempts:
        raise TooManyAttempts(
            f"You have used all {bounty.max_attempts} attempts at this bounty. Choose another bounty."
        )


def attempts_used(*, bounty: Bounty, person: User) -> int:
    """Number of the person's submissions that count as attempts.

    Not: the rejected, those withdrawn unsampled, the platform's failures, those that a moved tip left behind, and
    those whose verdict was overturned.
    """
    sampled = Run.objects.filter(submission=OuterRef("pk"), was_sampled=True)
    overturned = Dispute.objects.filter(submission=OuterRef("pk"), state=DisputeState.OVERTURNED)
    return (
        Submission.objects.filter(bounty=bounty, submitter=person)
        .exclude(state=SubmissionState.REJECTED)
        .exclude(state=SubmissionState.JUDGED, verdict_kind__in=[kind.value for kind in NOT_THEIR_FAULT])
        .exclude(Exists(overturned), state=SubmissionState.JUDGED)
        .exclude(~Exists(sampled), state=SubmissionState.WITHDRAWN)
        .count()
    )


def _rejected(submission: Submission, reading: Reading, reason: str) -> Submission:
    """Store a rejected diff with the reason."""
    _store(submission, reading)
    move(
        submission,
        to=SubmissionState.REJECTED,
        reason=reason,
        verdict_kind=VerdictKind.PATCH_REJECTED.value,
        verdict_reason=reason,
        judged_at=timezone.now(),
    )
    return submission


def withdraw(
    *,
    actor: User,
    submission_id: UUID,
    reason: str = "withdrawn by its author",
    only_unsampled: bool = False,
) -> Submission:
    """Take a submission back, before its gate has passed. After the first sample it still counts as an attempt.

    Raises NotAllowed for another person's, WrongState for one that `may_withdraw` does not let go, and, where only an
    unsampled one is asked for, for one whose run has begun to measure.
    """
    if find_submission(submission_id).submitter_id != actor.pk:
        raise NotAllowed("Only the author can withdraw a submission.")
    with transaction.atomic():
        # Locked before its run, which serialises with a runner that leases the run.
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        if submission.state == SubmissionState.WITHDRAWN:
            return submission
        if not may_withdraw(submission):
            raise WrongState(
                "Only a submission that waits for its first verdict is withdrawn, and none whose gate has passed: "
                f"this one is {submission.state if sees(actor, Part.COURSE, submission) else 'being judged'}."
            )
        if only_unsampled:
            list(submission.runs.select_for_update())  # a runner that begins to sample waits for this
            if has_samples(submission):
                raise WrongState("This submission is being measured already.")
        must_move(
            submission,
            to=SubmissionState.WITHDRAWN,
            reason=reason,
            actor=actor,
            next_step=NextStep.NONE,
        )
        for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
            move(run, to=RunState.LOST, reason="the submission was withdrawn")
        void_award(submission=submission, reason=reason)
    follow_funds(bounty=submission.bounty)
    return submission


def may_withdraw(submission: Submission) -> bool:
    """Whether its author may take it back: it waits for a verdict, and no gate has passed.

    An author who could give a low bound back and draw another one would be paid for the luckiest of several.
    """
    waits = submission.state in (SubmissionState.CHECKED, SubmissionState.QUEUED, SubmissionState.JUDGING)
    passed = submission.runs.filter(
        kind__in=[RunKind.GATE, RunKind.FIX], verdict__kind=VerdictKind.GAIN.value
    )
    return waits and not passed.exists()
