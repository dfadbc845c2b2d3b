"""Which bounty and which lineage a pull request is for: what its text or a command names, or the only open one."""

import re
from dataclasses import dataclass

from django.utils import timezone

from bounty.bounty_numbers import NUMBER, written
from bounty.github.pulls.plain_lines import plain_lines
from bounty.models import Bounty, BountyState, Command, CommandState, PullRequest, RepositoryBinding

LINE = re.compile(r"Gainshare-Bounty:[ \t]*(?P<name>\S{1,30})[ \t]*", re.IGNORECASE)
MAX_NAMED = 60
HOW = "Write a line such as Gainshare-Bounty: B12 into the text of the pull request, or comment /judge B12."


@dataclass(frozen=True, slots=True)
class Choice:
    """What a pull request is for. `problem` says why there is no bounty, and what to do."""

    binding: RepositoryBinding | None
    bounty: Bounty | None
    problem: str = ""
    is_bound: bool = True  # whether a lineage is bound to its branch


def named_in(text: str) -> str:
    """The names in the lines `Gainshare-Bounty: B12` of a text, each once; empty without such a line. Pure."""
    found = [match["name"] for line in plain_lines(text) if (match := LINE.fullmatch(line.text))]
    names = [written(int(number[1])) if (number := NUMBER.fullmatch(name)) else name for name in found]
    return " ".join(dict.fromkeys(names))[:MAX_NAMED]


def is_named_by_command(pull: PullRequest) -> bool:
    """Whether a `/judge B12` has named the bounty: then the text no longer does."""
    done = Command.objects.filter(pull_request=pull, state=CommandState.DONE)
    return done.filter(text__iregex=r"^/judge[ \t]+b[1-9]").exists()


def bindings_of(pull: PullRequest) -> list[RepositoryBinding]:
    """The lineages that are bound to the branch of the pull request."""
    bound = RepositoryBinding.objects.filter(github=pull.repository_id, branch=pull.branch)
    return list(bound.select_related("lineage").order_by("pk"))


def open_bounties(bindings: list[RepositoryBinding]) -> list[Bounty]:
    """The lineages' bounties that take submissions, by number."""
    found = Bounty.objects.filter(lineage__in=[binding.lineage_id for binding in bindings])
    now = timezone.now()
    rows = found.exclude(state=BountyState.CLOSED).select_related("lineage").order_by("number")
    return [bounty for bounty in rows if not bounty.is_past_deadline(now)]


def choose(pull: PullRequest) -> Choice:
    """The binding and the bounty of the pull request, as far as they are known."""
    bindings = bindings_of(pull)
    if not bindings:
        return Choice(
            None,
            None,
            "This pull request is not to a branch that a lineage is bound to, so it is not judged. Change its base branch.",
            is_bound=False,
        )
    only = bindings[0] if len(bindings) == 1 else None
    if pull.named:
        bounty = find_named(pull.named, bindings)
        if bounty is None:
            return Choice(only, None, not_here(pull.named))
        return Choice(_binding_of(bounty, bindings), bounty)
    found = open_bounties(bindings)
    if len(found) == 1:
        return Choice(_binding_of(found[0], bindings), found[0])
    if not found:
        return Choice(only, None, "No bounty is open here now, so there is nothing to be judged for.")
    numbers = ", ".join(bounty.short_name for bounty in found[:10])
    return Choice(only, None, f"Several bounties are open here: {numbers}. Name one. {HOW}")


def find_named(name: str, bindings: list[RepositoryBinding]) -> Bounty | None:
    """The bounty of that number among the lineages' own."""
    number = NUMBER.fullmatch(name)
    if number is None:
        return None
    lineages = [binding.lineage_id for binding in bindings]
    return (
        Bounty.objects.select_related("lineage").filter(number=int(number[1]), lineage__in=lineages).first()
    )


def not_here(name: str) -> str:
    """Why a name names no bounty of this branch."""
    if " " in name:
        return f"The text names several bounties: {name}. Leave one of these lines."
    return f"{name} is no bounty for this branch. Comment /bounty for a list of those that are. {HOW}"


def _binding_of(bounty: Bounty, bindings: list[RepositoryBinding]) -> RepositoryBinding:
    return next(binding for binding in bindings if binding.lineage_id == bounty.lineage_id)
