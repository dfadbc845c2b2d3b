"""Branches that took a merged gain back, or brought it again. The push only asks; a maintainer answers.

While a question is open, the tip stays as it is.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.errors import BadRequest, NotAllowed, NotFound, WrongState
from bounty.github.merging.landings import tell
from bounty.github.repositories.histories import Step
from bounty.models import (
    LandingState,
    Lineage,
    PullRequest,
    PushSender,
    RepositoryBinding,
    Reversal,
    ReversalKind,
    ReversalState,
    StateChange,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.awards.lifecycle import restore, reverse
from bounty.services.awards.unmeasured import payees
from bounty.services.bounties import follow_funds
from bounty.services.permissions import require_maintainer
from bounty.services.transitions import note
from bounty.services.wakeups import wake_fetch
from gainshare.accounts.models import GitHubAccount, User
from gainshare.ledger.errors import LedgerError

ANSWERS = (ReversalState.CONFIRMED.value, ReversalState.DISMISSED.value)
MERGED = (SubmissionState.ACCEPTED, SubmissionState.VESTED)


def ask(lineage: Lineage, rest: Sequence[Step], *, had_tip: bool) -> str:
    """Ask about what the trees after the tip take back or bring again; why the branch waits, or empty.

    ``had_tip``: the branch was at the tip. Else it takes back only what it brought itself.

    Inside a transaction that holds the lineage's lock. Repeating it asks nothing twice; a question that the branch no longer
    poses ends.
    """
    wanted = _brought_again(lineage, rest) or _taken_back(lineage, rest, had_tip)
    end_others(lineage, keep={(submission.pk, kind) for kind, submission, _ in wanted})
    rows = [_asked(lineage, kind, submission, step) for kind, submission, step in wanted]
    return " ".join(_words(row) for row in rows)


def end_others(lineage: Lineage, keep: Collection[tuple[UUID, str]] = ()) -> None:
    """End the lineage's open questions that are not about these submissions and of these kinds."""
    rows = Reversal.objects.filter(lineage=lineage, state=ReversalState.OPEN)
    for row in rows.select_related("submission"):
        if (row.submission_id, row.kind) in keep:
            continue
        ended = {"state": ReversalState.ENDED, "ended_at": timezone.now()}
        if Reversal.objects.filter(pk=row.pk, state=ReversalState.OPEN).update(**ended):
            state = row.submission.state
            note(row.submission, old=state, new=state, reason=f"{row.kind}: the branch has moved on")
            tell(row.submission)


def reversals() -> QuerySet[Reversal]:
    """All questions, the newest first."""
    return Reversal.objects.select_related("submission__submitter", "lineage", "answered_by").order_by(
        "-created_at"
    )


def open_reversals() -> QuerySet[Reversal]:
    """Questions that wait for a maintainer, the oldest first."""
    found = Reversal.objects.filter(state=ReversalState.OPEN).order_by("created_at")
    return found.select_related("submission__bounty", "submission__submitter", "lineage")


def decide(*, actor: User, reversal_id: UUID, answer: str, text: str) -> Reversal:
    """Confirm or dismiss. A confirmed reversal takes the award back, a confirmed restoration pays it again.

    Repeating the same answer changes nothing. Raises NotFound, NotAllowed, BadRequest and WrongState.
    """
    require_maintainer(actor, "decide about a branch that went back")
    if answer not in ANSWERS:
        raise BadRequest(f"The answer must be one of {', '.join(ANSWERS)}.")
    if not text.strip():
        raise BadRequest("Give a reason; the author will read it.")
    with transaction.atomic():
        lineage_id = _find(reversal_id).lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        row = _find(reversal_id)
        if row.state == answer:
            return row
        if row.state != ReversalState.OPEN:
            raise WrongState(f"This no longer waits for a decision: {row.get_state_display().lower()}.")
        _require_uninvolved(actor, row)
        if answer == ReversalState.CONFIRMED:
            _carry_out(actor, row, text.strip())
        answered = {
            "state": answer,
            "answer": text.strip(),
            "answered_by": actor,
            "ended_at": timezone.now(),
        }
        changed = Reversal.objects.filter(pk=row.pk, state=ReversalState.OPEN).update(**answered)
        assert changed, "the lineage's row is locked"
        state = Submission.objects.values_list("state", flat=True).get(pk=row.submission_id)
        reason = f"{row.kind} {answer}: {text.strip()}"[:1000]
        note(row.submission, old=state, new=state, reason=reason, actor=actor)
        tell(row.submission)
        wake_fetch(lineage=row.lineage.name)
    fault_point("merging.reversal_decided")
    follow_funds(bounty=row.submission.bounty)
    return _find(reversal_id)


def _carry_out(actor: User, row: Reversal, text: str) -> None:
    reason = f"{_words(row)} {text}"[:1000]
    if row.kind == ReversalKind.REVERSAL:
        reverse(actor=actor, submission=row.submission, reason=reason)
        return
    try:
        restore(actor=actor, submission=row.submission, reason=reason)
    except LedgerError as error:
        raise WrongState(f"The award cannot be paid again: {error.message}") from None


def _brought_again(lineage: Lineage, rest: Sequence[Step]) -> list[tuple[str, Submission, Step]]:
    """A submission that was taken back with its code and whose measured tree the branch has again, once."""
    for step in rest:
        reversed_ones = Submission.objects.filter(
            bounty__lineage=lineage,
            state=SubmissionState.REVERSED,
            candidate_tree=step.tree,
            base_tree=lineage.tip_id,
            reversals__kind=ReversalKind.REVERSAL,
            reversals__state=ReversalState.CONFIRMED,
        )
        for submission in reversed_ones.distinct().order_by("sealed_at"):
            answered = submission.reversals.filter(kind=ReversalKind.RESTORATION).exclude(
                state__in=[ReversalState.OPEN, ReversalState.ENDED]
            )
            if not answered.exists():
                return [(ReversalKind.RESTORATION, submission, step)]
    return []


def _taken_back(lineage: Lineage, rest: Sequence[Step], had_tip: bool) -> list[tuple[str, Submission, Step]]:
    """What was merged since the newest tree of the branch was the tip, the newest first."""
    newest = rest[-1]
    left_at = _left_at(lineage, newest.tree)
    if left_at is None:
        return []
    merged = Submission.objects.filter(bounty__lineage=lineage, state__in=MERGED, merged_at__gte=left_at)
    if not had_tip:
        merged = merged.filter(landings__state=LandingState.MERGED).distinct()
    return [
        (ReversalKind.REVERSAL, submission, newest)
        for submission in merged.order_by("-merged_at")
        if not submission.reversals.filter(
            kind=ReversalKind.REVERSAL, state=ReversalState.DISMISSED, ended_at__gte=left_at
        ).exists()
    ]


def _left_at(lineage: Lineage, tree: str) -> datetime | None:
    """When the tip last moved away from this tree; None if it never was the tip."""
    moves = StateChange.objects.filter(subject="lineage", subject_id=str(lineage.pk), old=tree)
    return moves.exclude(new=tree).order_by("-pk").values_list("created_at", flat=True).first()


def _asked(lineage: Lineage, kind: str, submission: Submission, step: Step) -> Reversal:
    row, is_new = Reversal.objects.get_or_create(
        submission=submission,
        state=ReversalState.OPEN,
        kind=kind,
        defaults={
            "lineage": lineage,
            "commit": step.commit,
            "tree": StoredTree.objects.get(pk=step.tree),
        },
    )
    if is_new:
        note(submission, old=submission.state, new=submission.state, reason=_words(row))
        tell(submission)
    elif row.commit != step.commit:
        Reversal.objects.filter(pk=row.pk, state=ReversalState.OPEN).update(commit=step.commit)
        row.commit = step.commit
    return row


def _words(row: Reversal) -> str:
    if row.kind == ReversalKind.REVERSAL:
        return (
            f"At {row.commit[:12]} the branch went back to a tree from before submission {row.submission_id} was merged. A "
            "maintainer who did not push it confirms that its award is taken back, or dismisses that; the tip stays until then."
        )
    return (
        f"At {row.commit[:12]} the branch has the code of submission {row.submission_id} again, whose award was taken back with "
        "it. A maintainer who did not push it confirms that the award is paid to its author again, or dismisses that."
    )


def _find(reversal_id: UUID) -> Reversal:
    row = (
        Reversal.objects.select_related("submission__bounty__lineage", "lineage")
        .filter(pk=reversal_id)
        .first()
    )
    if row is None:
        raise NotFound("There is no such question about a branch.")
    return row


def _require_uninvolved(actor: User, row: Reversal) -> None:
    if actor.pk in payees(row.submission):
        raise NotAllowed("You are paid by this submission. Another maintainer has to decide.")
    pushed_by = _pushed_by(row)
    if not pushed_by:
        return
    account = GitHubAccount.objects.filter(user=actor, linked_at__isnull=False).first()
    if account is None:
        raise NotAllowed(
            "Sign in with GitHub once, so that your account there is linked: who pushed this does not decide about it."
        )
    if account.github_id in pushed_by:
        raise NotAllowed("You pushed this. Another maintainer has to decide.")


def _pushed_by(row: Reversal) -> set[int]:
    """GitHub's numbers of who pushed or merged the commit, as far as GitHub has told.

    It tells the newest commit of a push only. Where it has not told of this one, it may have come with any push since.
    """
    binding = RepositoryBinding.objects.filter(lineage=row.lineage_id).first()
    if binding is None or binding.github_id is None:
        return set()
    merges = PullRequest.objects.filter(
        repository=binding.github_id, merge_sha=row.commit, merged_by_id__isnull=False
    )
    found = {number for number in merges.values_list("merged_by_id", flat=True) if number is not None}
    senders = PushSender.objects.filter(repository=binding.github_id, branch=binding.branch)
    exact = set(senders.filter(commit=row.commit).values_list("github_id", flat=True))
    if found or exact:
        return found | exact
    since = row.submission.merged_at or row.created_at
    return set(senders.filter(created_at__gte=since).values_list("github_id", flat=True))
