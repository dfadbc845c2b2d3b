"""Money that commands in comments move: bounded by a sum for each lineage and day (UTC), under the lineage's lock."""

from datetime import datetime

from django.db.models import Sum
from django.utils import timezone

from benchmarks.catalogue import BUG, payable_suites
from bounty.errors import BadRequest, BountyError
from bounty.github.pulls.naming import bindings_of
from bounty.models import Bounty, Command, Lineage, PullRequest, RepositoryBinding, Runner, RunnerState
from bounty.services.bounties import open_bounty
from gainshare.accounts.models import User
from gainshare.web.formatting import format_credits


class DailySumSpent(BountyError):
    """Comments have spent what the lineage lets them spend in a day."""

    code = "daily_sum_spent"


def spend(*, lineage: Lineage, pull: PullRequest, microcredits: int) -> None:
    """Make sure that comments may spend this much more today; the command's row keeps it. In the caller's transaction.

    Raises BadRequest for what is no positive amount, and DailySumSpent.
    """
    if microcredits <= 0:
        raise BadRequest("Write a positive number of credits.")
    Lineage.objects.select_for_update(no_key=True).get(pk=lineage.pk)  # until the command's row is committed
    most = RepositoryBinding.objects.get(lineage=lineage).daily_microcredits
    spent = spent_since(pull, _start_of_day())
    if spent + microcredits > most:
        raise DailySumSpent(
            f"Comments may spend {format_credits(most)} credits a day (UTC) for this lineage, and have spent "
            f"{format_credits(spent)} today. Open or fund the bounty on its page, or write this again tomorrow."
        )


def spent_since(pull: PullRequest, begin: datetime) -> int:
    """Micro-credits that comments in the repository's pull requests have spent since then."""
    rows = Command.objects.filter(pull_request__repository=pull.repository_id, done_at__gte=begin)
    return int(rows.aggregate(sum=Sum("spent_microcredits"))["sum"] or 0)


def open_by_comment(*, pull: PullRequest, actor: User, suite: str, rate: int, escrow: int) -> Bounty:
    """Open a bounty for the branch's lineage. `suite` is SUITE, or SUITE/PRESET; rate and escrow in micro-credits.

    Its hardware is that of the lineage's newest bounty, else the only one that runners have. Raises DomainError.
    """
    bindings = bindings_of(pull)
    if len(bindings) != 1:
        raise BadRequest("Several lineages are bound to this branch. Open the bounty on the page Bounties.")
    lineage = bindings[0].lineage
    name, _, preset = suite.partition("/")
    known = payable_suites().get(name)
    if known is None or known is BUG:
        choices = ", ".join(suite for suite in payable_suites() if suite != BUG.name)
        raise BadRequest(f"There is no such suite that is paid by rate; choose one of {choices}.")
    if not preset:
        fitting = [key for key, value in known.presets.items() if value.is_for_demos == lineage.is_demo]
        preset = (fitting or [key for key, value in known.presets.items() if not value.is_for_demos])[0]
    spend(lineage=lineage, pull=pull, microcredits=escrow)
    return open_bounty(
        actor=actor,
        title=f"Faster {known.title}"[:200],
        lineage=lineage.name,
        suite=name,
        preset=preset,
        hardware=_hardware(lineage),
        escrow_microcredits=escrow,
        rate_microcredits_per_nat=rate,
        description=f"Opened in pull request {pull}.",
    )


def _hardware(lineage: Lineage) -> str:
    newest = Bounty.objects.filter(lineage=lineage).order_by("-created_at").first()
    if newest is not None:
        return newest.hardware
    present = set(Runner.objects.exclude(state=RunnerState.RETIRED).values_list("hardware", flat=True))
    if len(present) != 1:
        raise BadRequest(
            "Runners have several kinds of hardware, or none. Open the bounty on the page Bounties."
        )
    return present.pop()


def _start_of_day() -> datetime:
    return timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
