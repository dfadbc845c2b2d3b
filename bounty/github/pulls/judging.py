"""From a sealed head to a submission: which head is judged, and what takes a queued one's place.

Judged are the first head that is no draft, and heads for which somebody wrote /judge. Each step is one conditional
change and can be repeated; a pull request has at most one head that is being judged.
"""

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from benchmarks.faults import fault_point
from bounty.errors import NotApplicable, OwnEarlier, WrongBase, WrongState
from bounty.github.pulls.naming import Choice
from bounty.models import (
    Bounty,
    Head,
    HeadState,
    PullRequest,
    PullRequestState,
    Submission,
    SubmissionState,
)
from bounty.services.series.best import best_award, patch_base
from bounty.services.series.copies import IN_FLIGHT, has_samples
from bounty.services.submissions import may_withdraw, submit_head, withdraw
from bounty.services.trees import blob_store
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import GitHubAccount

OPEN_AGAIN = (HeadState.SEALED, HeadState.REPLACED)
NEW_AUTHOR = (
    "This is the author's first pull request here. It is judged after somebody else who may write to the repository "
    "comments /judge."
)
IS_MEASURED = "An earlier commit of this pull request is being measured. This one is judged after that verdict, or after /cancel."


class _Taken(Exception):
    """Another process has done it, or the head has changed meanwhile."""


def current_head(pull: PullRequest) -> Head | None:
    """The newest head of the pull request, once it was seen."""
    heads = pull.heads.select_related("submission__bounty", "pull_request__author__user")
    return heads.filter(sha=pull.head_sha, is_of_queue=False).first()


def judge(pull: PullRequest, choice: Choice) -> str:
    """Do what can be done now to have the pull request judged; why it is not judged, or empty."""
    if pull.state != PullRequestState.OPEN:
        if pull.state == PullRequestState.CLOSED:
            stop(pull, "the pull request was closed")
        return ""
    if not choice.is_bound:
        stop(pull, "the pull request is no longer to a bound branch")
        return choice.problem
    head = current_head(pull)
    if head is None or head.state == HeadState.SEEN:
        return choice.problem
    if head.state in (HeadState.REFUSED, HeadState.SUBMITTED) or not head.diff_blob:
        return ""
    if head.state in OPEN_AGAIN and not is_due(pull, head):
        return ""
    want(head)
    if _follows_same(pull, head):
        return ""
    problem = _hindrance(pull, choice)
    if not problem and not make_room(pull, head):
        problem = IS_MEASURED
    if not problem:
        assert choice.bounty is not None
        problem = _submit(head, choice.bounty)
    Head.objects.filter(pk=head.pk, state=HeadState.WAITING).update(problem=problem)
    return problem


def want(head: Head) -> bool:
    """Have a sealed head judged as soon as it can be. False if it is not sealed, or submitted."""
    return bool(
        Head.objects.filter(pk=head.pk, state__in=[*OPEN_AGAIN, HeadState.WAITING])
        .exclude(diff_blob="")
        .update(state=HeadState.WAITING)
    )


def is_due(pull: PullRequest, head: Head) -> bool:
    """Whether a head is judged without being asked for: the first that is no draft, or in a queued one's place."""
    if pull.is_draft or not head.diff_blob:
        return False
    others = list(_judged(pull).exclude(pk=head.pk).select_related("submission"))
    if not others:
        return head.state == HeadState.SEALED
    return head.state == HeadState.SEALED and any(map(_is_queued, others))


def stop(pull: PullRequest, reason: str) -> None:
    """Take back what is not measured yet, as far as `may_withdraw` allows, so that it can be judged again later."""
    pull.heads.filter(state=HeadState.WAITING).update(state=HeadState.SEALED, problem="")
    for head in pull.heads.filter(state=HeadState.SUBMITTED).select_related("submission"):
        if head.submission is not None and may_withdraw(head.submission):
            _withdraw(head, reason)


def _withdraw(head: Head, reason: str) -> None:
    assert head.submission is not None
    try:
        withdraw(actor=head.submission.submitter, submission_id=head.submission.pk, reason=reason)
    except WrongState:
        return  # its gate has passed meanwhile
    if not has_samples(head.submission):
        Head.objects.filter(pk=head.pk, state=HeadState.SUBMITTED, submission=head.submission).update(
            state=HeadState.SEALED, submission=None
        )


def make_room(pull: PullRequest, head: Head) -> bool:
    """Take the place of older heads that wait or are queued. False while one of them is being measured."""
    Head.objects.filter(pull_request=pull, state=HeadState.WAITING).exclude(pk=head.pk).update(
        state=HeadState.REPLACED, problem="A newer commit took its place before it was measured."
    )
    for old in pull.heads.filter(state=HeadState.SUBMITTED).exclude(pk=head.pk).select_related("submission"):
        if old.submission is None or old.submission.state not in IN_FLIGHT:
            continue
        if not _is_queued(old) or not _replace(old):
            return False
    return True


def _replace(old: Head) -> bool:
    """Withdraw a queued head's submission, and free its place, at once. False if a runner has begun to measure it."""
    assert old.submission is not None
    try:
        with transaction.atomic():
            withdraw(
                actor=old.submission.submitter,
                submission_id=old.submission.pk,
                reason="a newer commit of the pull request took its place",
                only_unsampled=True,
            )
            Head.objects.filter(pk=old.pk, submission=old.submission).update(
                state=HeadState.REPLACED,
                submission=None,
                problem="A newer commit took its place before it was measured.",
            )
    except WrongState:
        return False
    fault_point("pulls.replaced")
    return True


def _judged(pull: PullRequest) -> QuerySet[Head]:
    """The heads that were chosen to be judged, whatever came of it."""
    chosen = pull.heads.filter(
        state__in=[HeadState.WAITING, HeadState.SUBMITTED, HeadState.REPLACED], is_of_queue=False
    )
    return chosen.exclude(diff_blob="")


def _is_queued(head: Head) -> bool:
    """Whether nothing of the head was measured: it waits, or its submission does."""
    if head.submission is None:
        return head.state == HeadState.WAITING
    is_open = head.submission.state in (
        SubmissionState.CHECKED,
        SubmissionState.QUEUED,
        SubmissionState.JUDGING,
    )
    return is_open and not has_samples(head.submission)


def _follows_same(pull: PullRequest, head: Head) -> bool:
    """Give the head the submission of an older one that has the same tree and is not decided: only the commit is new."""
    same = pull.heads.filter(
        state=HeadState.SUBMITTED,
        tree=head.tree_id,
        merge_base=head.merge_base,
        submission__state__in=IN_FLIGHT,
    )
    old = same.exclude(pk=head.pk).first()
    return old is not None and old.submission_id is not None and not link(head, old.submission_id)


def link(head: Head, submission_id: UUID) -> str:
    """Make an own earlier submission the head's. An older head of the same pull request lets go of it.

    Why that cannot be, or empty.
    """
    with transaction.atomic():
        submission = Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        old = Head.objects.filter(submission=submission).exclude(pk=head.pk).first()
        if old is not None and old.pull_request_id != head.pull_request_id:
            return f"The same change was judged in pull request {old.pull_request}. Change the patch, or go on there."
        if old is not None:
            Head.objects.filter(pk=old.pk).update(
                state=HeadState.REPLACED, submission=None, problem="A newer commit has the same change."
            )
        Head.objects.filter(pk=head.pk, state=HeadState.WAITING).update(
            state=HeadState.SUBMITTED, submission=submission, problem=""
        )
    return ""


def _hindrance(pull: PullRequest, choice: Choice) -> str:
    if pull.needs_judge_command and pull.author.is_dormant:
        return NEW_AUTHOR
    return choice.problem


def _submit(head: Head, bounty: Bounty) -> str:
    """Submit the head; why it is not submitted, or empty. Raises nothing that is the author's to mend."""

    def take(submission: Submission) -> None:
        # Its author may have linked the account meanwhile: then the next look submits it for the other user.
        author = GitHubAccount.objects.filter(pk=head.pull_request.author_id, user=submission.submitter_id)
        row = Head.objects.filter(pk=head.pk, state=HeadState.WAITING, submission=None)
        if not author.exists() or not row.update(
            state=HeadState.SUBMITTED, submission=submission, problem=""
        ):
            raise _Taken
        PullRequest.objects.filter(pk=head.pull_request_id).update(bounty=bounty)
        fault_point("pulls.before_submitted")

    try:
        submit_head(
            actor=head.pull_request.author.user,
            bounty_id=bounty.pk,
            diff=blob_store().get(head.diff_blob).decode(),
            sealed_at=head.sealed_at,
            take=take,
        )
    except _Taken:
        return ""
    except OwnEarlier as error:
        return error.message if error.submission_id is None else link(head, error.submission_id)
    except NotApplicable as error:
        return f"{error.message} {rebase_on(bounty)} This costs no attempt."
    except WrongBase:
        return rebase_on(bounty)
    except DomainError as error:
        return error.message
    fault_point("pulls.submitted")
    return ""


def rebase_on(bounty: Bounty) -> str:
    """Which tree or pull request the change has to be made on."""
    tree = patch_base(bounty=bounty)
    award = best_award(bounty=bounty)
    if award is None or award.submission.merged_at is not None:
        return f"Rebase it on the newest state of the branch (tree {tree.pk[:12]})."
    head = Head.objects.filter(submission=award.submission).select_related("pull_request__repository").first()
    if head is not None:
        return f"Rebase it on pull request {head.pull_request} (tree {tree.pk[:12]}), whose gain is not merged yet."
    return f"Rebase it on the tree {tree.pk[:12]} of submission {award.submission_id}, whose gain is not merged yet."
