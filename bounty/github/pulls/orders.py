"""What each command does, by the services that pages and REST call. Inside the transaction that answers it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid5

from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.github.pulls.commands import Name, Order
from bounty.github.pulls.judging import current_head, want
from bounty.github.pulls.naming import bindings_of, choose, find_named, not_here, open_bounties
from bounty.github.pulls.spending import open_by_comment, spend
from bounty.models import (
    Bounty,
    Command,
    Head,
    HeadState,
    PullRequest,
    ReviewDecision,
    Submission,
    SubmissionState,
)
from bounty.services.access import is_decided
from bounty.services.awards.unmeasured import unaccepted_paths
from bounty.services.bounties import STEPS, add_funds, available_escrow, shown_escrow
from bounty.services.disputes import file_dispute
from bounty.services.reviews import rejudge, review
from bounty.services.series.copies import IN_FLIGHT, has_samples
from bounty.services.submissions import withdraw
from gainshare.accounts.models import User
from gainshare.web.formatting import format_credits
from gainshare.web.forms.amounts import parse_credits

MAINTAINERS = frozenset({Name.OPEN, Name.FUND, Name.ACCEPT, Name.DECLINE, Name.REJUDGE})
MAX_LISTED = 20


class Later(Exception):
    """The command cannot be done yet. The message says what it waits for."""


@dataclass(frozen=True, slots=True)
class Task:
    """A command, its pull request, and who asks: a maintainer where it takes one."""

    pull: PullRequest
    command: Command
    maintainer: User | None
    is_author: bool


Answer = tuple[str, int]  # in plain words, and the micro-credits that it spent


def carry_out(task: Task, order: Order) -> Answer:
    """Do what the command asks for. Raises Later, and DomainError where it is refused."""
    return DOING[order.name](task, order.words)


def _judge(task: Task, words: tuple[str, ...]) -> Answer:
    pull = task.pull
    _name_bounty(pull, words)
    if pull.needs_judge_command and pull.author.is_dormant:
        if task.is_author:
            raise NotAllowed(
                "This is your first pull request here. Somebody else who may write to the repository has to comment /judge."
            )
        PullRequest.objects.filter(pk=pull.pk).update(needs_judge_command=False)
    head = current_head(pull)
    if head is None or head.state == HeadState.SEEN:
        raise Later("/judge waits until the newest commit is read.")
    if head.state == HeadState.REFUSED:
        raise WrongState(f"Commit {head.sha[:12]} cannot be judged. {head.problem}")
    if head.state == HeadState.SUBMITTED:
        _free_withdrawn(head)
    choice = choose(_again(pull))
    if choice.bounty is None:
        raise WrongState(choice.problem)
    if not want(head):
        raise WrongState(f"Commit {head.sha[:12]} changed meanwhile. Write /judge again.")
    return f"Commit {head.sha[:12]} is to be judged for {choice.bounty.short_name}.", 0


def _name_bounty(pull: PullRequest, words: tuple[str, ...]) -> None:
    """Note the bounty that a command names. Raises BadRequest where it is none of the branch."""
    if not words:
        return
    bounty = find_named(words[0].upper(), bindings_of(pull))
    if bounty is None:
        raise BadRequest(not_here(words[0].upper()))
    PullRequest.objects.filter(pk=pull.pk).update(named=bounty.short_name)


def _free_withdrawn(head: Head) -> None:
    """Let go of a submission that was withdrawn before anything was measured. Raises WrongState for any other."""
    submission = head.submission
    if (
        submission is not None
        and submission.state == SubmissionState.WITHDRAWN
        and not has_samples(submission)
    ):
        Head.objects.filter(pk=head.pk, submission=submission).update(state=HeadState.SEALED, submission=None)
        return
    if submission is not None and submission.state in IN_FLIGHT:
        raise WrongState(f"Commit {head.sha[:12]} is being judged already.")
    raise WrongState(f"Commit {head.sha[:12]} was judged already. Push a change, then write /judge.")


def _cancel(task: Task, _: tuple[str, ...]) -> Answer:
    pull = task.pull
    for head in pull.heads.filter(state=HeadState.SUBMITTED).select_related("submission__submitter"):
        submission = head.submission
        if submission is not None and submission.state in IN_FLIGHT:
            by = "its author" if task.is_author else f"{task.command.login}, who may write to the repository"
            withdraw(actor=submission.submitter, submission_id=submission.pk, reason=f"cancelled by {by}")
            counts = (
                " It was measured in part, so it counts as an attempt." if has_samples(submission) else ""
            )
            return f"The judging of commit {head.sha[:12]} is cancelled.{counts}", 0
    cancelled = pull.heads.filter(state=HeadState.WAITING).update(
        state=HeadState.REPLACED, problem="Cancelled. Comment /judge to have it judged."
    )
    if not cancelled:
        raise WrongState(
            "Nothing of this pull request is waiting or being judged, so there is nothing to cancel."
        )
    return "The newest commit is no longer waiting to be judged.", 0


def _list(task: Task, _: tuple[str, ...]) -> Answer:
    found = open_bounties(bindings_of(task.pull))
    if not found:
        return "No bounty is open for this branch.", 0
    free = shown_escrow(found[:MAX_LISTED])
    lines = [
        f"{bounty.short_name}: {bounty.title} ({bounty.suite}, {bounty.hardware}), "
        f"{format_credits(free[bounty.pk].available)} credits free"
        for bounty in found[:MAX_LISTED]
    ]
    more = f"\nand {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return "Open bounties:\n" + "\n".join(lines) + more, 0


def _status(task: Task, _: tuple[str, ...]) -> Answer:
    head = current_head(task.pull)
    if head is None or head.state == HeadState.SEEN:
        return "The newest commit is not read yet.", 0
    name = f"Commit {head.sha[:12]}"
    if head.submission is None:
        said = {
            HeadState.SEALED: "is sealed and is not judged. Comment /judge to have it judged.",
            HeadState.WAITING: f"waits to be judged. {head.problem}",
            HeadState.REPLACED: f"is sealed and is not judged. {head.problem}",
        }.get(HeadState(head.state), f"is not judged. {head.problem}")
        return f"{name} {said}".strip(), 0
    submission = head.submission
    if is_decided(submission):
        kind = submission.verdict_kind.replace("_", " ") or submission.get_state_display().lower()
        return f"{name}, {submission.bounty.short_name}: {kind}. {submission.verdict_reason}".strip(), 0
    if submission.state == SubmissionState.WITHDRAWN:
        return f"{name}, {submission.bounty.short_name}: withdrawn. Comment /judge to have it judged.", 0
    return f"{name}, {submission.bounty.short_name}: it is being judged and has no verdict yet.", 0


def _dispute(task: Task, words: tuple[str, ...]) -> Answer:
    if not task.is_author:
        raise NotAllowed("Only the author of the pull request can dispute its verdict.")
    submission = _submission(task.pull)
    dispute = file_dispute(actor=submission.submitter, submission_id=submission.pk, text=words[0])
    return (
        f"The verdict is disputed ({dispute.pk}). Another person than its author, a maintainer, answers.",
        0,
    )


def _open(task: Task, words: tuple[str, ...]) -> Answer:
    assert task.maintainer is not None
    suite, rate, escrow = words
    bounty = open_by_comment(
        pull=task.pull, actor=task.maintainer, suite=suite, rate=_credits(rate), escrow=_credits(escrow)
    )
    amount = bounty.escrow_microcredits
    return f"{bounty.short_name} is open: {bounty.title}, escrow {format_credits(amount)} credits.", amount


def _fund(task: Task, words: tuple[str, ...]) -> Answer:
    assert task.maintainer is not None
    bounty = _funded(task.pull, words[0] if len(words) == 2 else "")
    amount = _credits(words[-1])
    spend(lineage=bounty.lineage, pull=task.pull, microcredits=amount)
    bounty = add_funds(
        actor=task.maintainer,
        bounty_id=bounty.pk,
        transfer_id=id_of(task.command),
        amount_microcredits=amount,
    )
    return (
        f"{format_credits(amount)} credits were added to {bounty.short_name}, which has "
        f"{format_credits(available_escrow(bounty))} free now.",
        amount,
    )


def _funded(pull: PullRequest, name: str) -> Bounty:
    bounty = find_named(name.upper(), bindings_of(pull)) if name else choose(pull).bounty
    if bounty is None:
        raise BadRequest(not_here(name) if name else choose(pull).problem)
    return bounty


def id_of(command: Command) -> UUID:
    """Ledger id of what a command moves; the same for every repetition."""
    return uuid5(STEPS, f"comment:{command.comment_id}:{command.line}")


def _accept(task: Task, words: tuple[str, ...]) -> Answer:
    assert task.maintainer is not None
    submission = _submission(task.pull)
    head = Head.objects.get(submission=submission)
    if unknown := sorted(set(words) - {*head.unmeasured_paths, *unaccepted_paths(submission)}):
        raise BadRequest(f"This pull request does not change, or has measured: {', '.join(unknown)[:500]}.")
    accepted = review(
        actor=task.maintainer,
        submission_id=submission.pk,
        decision=ReviewDecision.ACCEPT,
        comment="by /accept",
        unmeasured_paths=words,
    )
    state = accepted.get_state_display().lower()
    return f"Accepted by {task.maintainer.username}. The submission is {state}.", 0


def _decline(task: Task, words: tuple[str, ...]) -> Answer:
    assert task.maintainer is not None
    submission = _submission(task.pull)
    review(
        actor=task.maintainer,
        submission_id=submission.pk,
        decision=ReviewDecision.DECLINE,
        comment=words[0],
    )
    return f"Declined by {task.maintainer.username}; the award went back to escrow.", 0


def _rejudge(task: Task, _: tuple[str, ...]) -> Answer:
    assert task.maintainer is not None
    submission = _submission(task.pull)
    rejudge(actor=task.maintainer, submission_id=submission.pk)
    return "It is judged again, from the gate on.", 0


def _submission(pull: PullRequest) -> Submission:
    """The newest head's submission. A command never means an older head. Raises WrongState."""
    head = current_head(pull)
    if head is None or head.submission is None:
        raise WrongState(
            "The newest commit of this pull request was not judged. Comment /judge to have it judged."
        )
    return head.submission


def _again(pull: PullRequest) -> PullRequest:
    return PullRequest.objects.select_related("repository", "author").get(pk=pull.pk)


def _credits(text: str) -> int:
    try:
        return parse_credits(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None


DOING: Mapping[Name, Callable[[Task, tuple[str, ...]], Answer]] = {
    Name.JUDGE: _judge,
    Name.CANCEL: _cancel,
    Name.BOUNTY: _list,
    Name.STATUS: _status,
    Name.DISPUTE: _dispute,
    Name.OPEN: _open,
    Name.FUND: _fund,
    Name.ACCEPT: _accept,
    Name.DECLINE: _decline,
    Name.REJUDGE: _rejudge,
}
