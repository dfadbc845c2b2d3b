"""Acceptances that are given on GitHub: an approving review of the measured head, by a maintainer whose account is linked.

People are found by GitHub's number alone. Who merged has accepted nothing. A review that was dismissed does not count,
however late its other events come, and neither does one that its author has followed by a request for changes.
"""

from collections.abc import Collection

from django.db import transaction

from benchmarks.faults import fault_point
from bounty.errors import BountyError, NotAllowed
from bounty.github.app.facts import ReviewFacts
from bounty.github.merging.landings import tell
from bounty.models import (
    Approval,
    ApprovalState,
    Head,
    Review,
    ReviewDecision,
    StateChange,
    Submission,
)
from bounty.services.reviews import OPEN_FOR_REVIEW, review
from bounty.services.transitions import note
from gainshare.accounts.models import GitHubAccount, User


def see_review(facts: ReviewFacts) -> None:
    """Take a review as GitHub tells of it; one of a commit that is not a known head is ignored."""
    heads = Head.objects.filter(
        sha=facts.commit_sha, pull_request__repository=facts.repository_id, pull_request__number=facts.number
    )
    for head in heads.select_related("pull_request"):
        approve(head, facts)


def approve(head: Head, facts: ReviewFacts) -> Approval | None:
    """Take a review of this head as GitHub tells of it, and count it if it can be counted now; None if it is ignored.

    One that comes before the submission is confirmed is kept and counted then, unless the candidate is another one by then.
    Repeating it, late or out of order, changes nothing.
    """
    if not _is_of(head, facts) or facts.state not in ApprovalState.values:
        return None
    with transaction.atomic():
        submission = Submission.objects.filter(head=head).first()
        row, is_new = Approval.objects.select_for_update(no_key=True).get_or_create(
            review_id=facts.review_id,
            defaults={
                "head": head,
                "github_id": facts.author.github_id,
                "state": facts.state,
                "candidate_tree": None if submission is None else submission.candidate_tree,
                "submitted_at": facts.submitted_at,
            },
        )
        if not is_new and facts.state == ApprovalState.DISMISSED:
            Approval.objects.filter(pk=row.pk).update(state=ApprovalState.DISMISSED)
            row.state = ApprovalState.DISMISSED
        _withdraw_undone(row)
    fault_point("merging.approval_kept")
    count(row)
    return Approval.objects.get(pk=row.pk)


def accept_paths(head: Head, *, actor: User, paths: Collection[str]) -> Submission:
    """Accept the head's submission and name its changed files that nobody measured. Raises as `review` does."""
    submission = Submission.objects.filter(head=head).first()
    if submission is None:
        raise NotAllowed("This head has no submission yet. Accept it when it is confirmed.")
    return review(
        actor=actor,
        submission_id=submission.pk,
        decision=ReviewDecision.ACCEPT.value,
        unmeasured_paths=paths,
    )


def count(row: Approval) -> bool:
    """Have an approval accepted, if it is one and its submission is open for reviews. What hinders it is written down."""
    submission = Submission.objects.filter(head=row.head_id).select_related("bounty").first()
    if submission is None or row.counted_as_id is not None or not _stands(row):
        return False
    if submission.state not in OPEN_FOR_REVIEW:
        return False
    problem, made = _counted(row, submission)
    if made is not None or problem != row.problem:
        Approval.objects.filter(pk=row.pk).update(problem=problem, counted_as=made)
        tell(submission)
    return made is not None


def count_standing() -> int:
    """Count every approval that could not be counted when it came; the number that can be now."""
    rows = Approval.objects.filter(
        state=ApprovalState.APPROVED,
        counted_as=None,
        head__submission__state__in=OPEN_FOR_REVIEW,
    )
    return sum(count(row) for row in rows)


def _is_of(head: Head, facts: ReviewFacts) -> bool:
    pull_request = head.pull_request
    return (
        head.submission_id is not None
        and facts.commit_sha == head.sha
        and facts.number == pull_request.number
        and facts.repository_id == pull_request.repository_id
    )


def _stands(row: Approval) -> bool:
    """Whether it approves, and its author has not asked for changes since."""
    if row.state != ApprovalState.APPROVED:
        return False
    later = Approval.objects.filter(
        head__pull_request=row.head.pull_request_id,
        github_id=row.github_id,
        state=ApprovalState.CHANGES,
        submitted_at__gte=row.submitted_at,
    )
    return not later.exists()


def _counted(row: Approval, submission: Submission) -> tuple[str, Review | None]:
    account = GitHubAccount.objects.filter(github_id=row.github_id).select_related("user").first()
    if account is None or account.linked_at is None:
        return "Its author's account on GitHub is not linked to one here.", None
    if not account.user.is_maintainer:
        return "Its author is no maintainer of this site.", None
    if row.candidate_tree_id != submission.candidate_tree_id:
        return "The candidate is another one since. Review it again, or write /accept.", None
    given = Review.objects.filter(
        submission=submission, reviewer=account.user, candidate_tree=submission.candidate_tree_id
    )
    if given.exclude(approval__state=ApprovalState.DISMISSED).exists():
        return "Its author has decided about this candidate already.", None
    try:
        with transaction.atomic():
            review(
                actor=account.user,
                submission_id=submission.pk,
                decision=ReviewDecision.ACCEPT.value,
                comment=f"approved on GitHub (review {row.review_id})",
            )
            return "", given.get()
    except BountyError as error:
        return error.message, None


def _withdraw_undone(row: Approval) -> None:
    """Let acceptances lapse that rest on a review that no longer stands (`bounty.services.awards.lifecycle.acceptances`).

    That counts while others are still awaited. Once enough have accepted, a maintainer who has changed their mind declines.
    """
    alike = Approval.objects.filter(
        head__pull_request=row.head.pull_request_id,
        github_id=row.github_id,
        counted_as__isnull=False,
    )
    for each in alike.select_related("counted_as__submission", "head"):
        if each.counted_as is None or (each.state == ApprovalState.APPROVED and _stands(each)):
            continue
        Approval.objects.filter(pk=each.pk).update(state=ApprovalState.DISMISSED)
        submission = each.counted_as.submission
        reason = f"an acceptance was taken back on GitHub (review {each.review_id})"
        if not StateChange.objects.filter(
            subject="submission", subject_id=str(submission.pk), reason=reason
        ).exists():
            note(submission, old=submission.state, new=submission.state, reason=reason)
            tell(submission)
