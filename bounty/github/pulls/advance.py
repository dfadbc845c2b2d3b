"""One look at a pull request: seal its heads, answer its commands, have it judged, and have it told."""

from uuid import UUID

from benchmarks.faults import fault_point
from bounty.github.pulls.answers import acknowledge, answer_commands
from bounty.github.pulls.judging import judge
from bounty.github.pulls.naming import choose
from bounty.github.pulls.sealing import seal_heads
from bounty.models import HeadState, PullRequest
from bounty.services.wakeups import wake_report


def advance_pull_request(*, pull_request_id: UUID) -> None:
    """Do what can be done now for the pull request. Each step may be repeated; nothing if there is no such one."""
    pull = _find(pull_request_id)
    if pull is None:
        return
    _release_linked(pull)
    choice = choose(pull)
    problem = "" if choice.binding is None else seal_heads(pull, choice.binding)
    fault_point("pulls.heads_sealed")
    waiting = answer_commands(pull)
    pull = _find(pull_request_id) or pull
    choice = choose(pull)
    if choice.bounty is not None and not pull.heads.filter(state=HeadState.SUBMITTED).exists():
        PullRequest.objects.filter(pk=pull.pk).update(bounty=choice.bounty)
    problem = judge(pull, choice) or problem or waiting
    PullRequest.objects.filter(pk=pull.pk).update(problem=problem)
    wake_report(pull_request_id=pull.pk)
    acknowledge(pull)


def _find(pull_request_id: UUID) -> PullRequest | None:
    found = PullRequest.objects.select_related("repository__installation", "author__user", "bounty")
    return found.filter(pk=pull_request_id).first()


def _release_linked(pull: PullRequest) -> None:
    """An author who has signed in since is no longer one of those who need somebody's word."""
    if pull.needs_judge_command and not pull.author.is_dormant:
        PullRequest.objects.filter(pk=pull.pk).update(needs_judge_command=False)
        pull.needs_judge_command = False
