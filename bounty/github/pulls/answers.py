"""Commands are done once and answered: what was asked, its answer and what it spent are one transaction.

Permissions: the author and people with write permission have a pull request judged, or cancel it. What moves money or
verdicts takes a maintainer of the platform who has linked the account on GitHub by signing in.
"""

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.errors import NotAllowed
from bounty.github.app.facts import AccountFacts, GitHubError, GitHubGone, GitHubRefused
from bounty.github.pulls.asking import client_of, may_write
from bounty.github.pulls.commands import Name, NotACommand, Order, read
from bounty.github.pulls.orders import MAINTAINERS, Later, Task, carry_out
from bounty.models import Command, CommandState, PullRequest
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import GitHubAccount, User

NOT_LINKED = (
    "Only maintainers of the platform can do this, with this GitHub account linked to theirs. Sign in to the platform with "
    "GitHub once, then write the command again."
)
NOT_A_MAINTAINER = "Only maintainers of the platform can do this. Ask one of them."
NOT_A_WRITER = "Only the author of the pull request, and those who may write to the repository, can do this."
DONE, CONFUSED = "+1", "confused"


def answer_commands(pull: PullRequest) -> str:
    """Do and answer the commands of the pull request, in their order; why the rest has to wait, or empty."""
    for command in pull.commands.filter(state=CommandState.WAITING).order_by("created_at", "pk"):
        try:
            answer(command, pull)
        except Later as error:
            return str(error)
        except GitHubError as error:
            return f"The command {command.text.split()[0]} waits: GitHub could not be asked. {error}"
    return ""


def answer(command: Command, pull: PullRequest) -> None:
    """Do one command and keep its answer. Raises Later and GitHubError where it has to wait."""
    try:
        order = read(command.text)
        task = _task(command, pull, order)
    except (NotACommand, NotAllowed) as error:
        _settle(command, CommandState.REFUSED, str(error))
        return
    try:
        with transaction.atomic():
            # Locked, so that it is done once; what it does is committed with its answer or not at all.
            row = Command.objects.select_for_update().filter(pk=command.pk, state=CommandState.WAITING)
            if not row.exists():
                return
            words, spent = carry_out(task, order)
            _settle(command, CommandState.DONE, words, spent)
            fault_point("pulls.before_answered")
    except DomainError as error:
        _settle(command, CommandState.REFUSED, error.message)
    fault_point("pulls.answered")


def acknowledge(pull: PullRequest) -> None:
    """Put our reaction under each comment whose command is answered. What GitHub does not take now is tried again."""
    waiting = pull.commands.filter(is_acknowledged=False).exclude(state=CommandState.WAITING)
    for command in waiting:
        reaction = DONE if command.state == CommandState.DONE else CONFUSED
        try:
            client_of(pull.repository).react(pull.repository.full_name, command.comment_id, reaction)
        except (GitHubGone, GitHubRefused):
            pass  # the comment was deleted, or locked
        except GitHubError:
            return
        Command.objects.filter(pk=command.pk).update(is_acknowledged=True)


def _settle(command: Command, state: CommandState, words: str, spent: int = 0) -> None:
    Command.objects.filter(pk=command.pk, state=CommandState.WAITING).update(
        state=state, answer=words, spent_microcredits=spent, done_at=timezone.now()
    )


def _task(command: Command, pull: PullRequest, order: Order) -> Task:
    """Who asks for what, once that is allowed. Raises NotAllowed, GitHubError."""
    is_author = command.github_id == pull.author_id
    if order.name in MAINTAINERS:
        return Task(pull, command, _maintainer(command), is_author)
    if order.name in (Name.JUDGE, Name.CANCEL) and not is_author and not may_write(pull, _writer(command)):
        raise NotAllowed(NOT_A_WRITER)
    return Task(pull, command, None, is_author)


def _writer(command: Command) -> AccountFacts:
    return AccountFacts(command.github_id, command.login)


def _maintainer(command: Command) -> User:
    """The maintainer whose linked account wrote the command, by GitHub's number. Raises NotAllowed."""
    linked = GitHubAccount.objects.select_related("user").exclude(linked_at=None)
    account = linked.filter(pk=command.github_id).first()
    if account is None:
        raise NotAllowed(NOT_LINKED)
    if not account.user.is_active or not account.user.is_maintainer:
        raise NotAllowed(NOT_A_MAINTAINER)
    return account.user
