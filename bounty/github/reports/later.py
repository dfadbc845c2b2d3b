"""What came after a booked award without changing its submission's state: a random re-measurement, another price.

Each is told by a check run of its own, once, when it has ended. Read only where the submission is decided.
"""

from dataclasses import dataclass

from benchmarks.statistics.units import signed_percent
from bounty.github.reports.outcomes import Outcome, booked_award
from bounty.models import Repricing, RepricingState, Submission
from bounty.services.runs.rechecks import Check, CheckOutcome, check_of
from gainshare.web.formatting import format_credits, in_credits

ENDED = (CheckOutcome.CONSISTENT, CheckOutcome.WAIVED, CheckOutcome.FAILED)


@dataclass(frozen=True, slots=True)
class Later:
    """A later outcome, and the name of its check run."""

    name: str
    outcome: Outcome

    @property
    def key(self) -> str:
        return self.outcome.key


def later_outcomes(submission: Submission) -> list[Later]:
    """What has ended, the oldest first."""
    award = booked_award(submission)
    check = None if award is None else check_of(award)
    found = []
    if check is not None and check.outcome in ENDED and check.run.pk != submission.verdict_run_id:
        found.append(Later("measured again", _measured_again(check)))
    ended = submission.repricings.filter(state__in=[RepricingState.PAID, RepricingState.UNCHANGED])
    found += [
        Later("new price", _new_price(row)) for row in ended.select_related("award").order_by("ended_at")
    ]
    return found


def _measured_again(check: Check) -> Outcome:
    key = f"recheck:{check.run.pk}"
    if check.outcome == CheckOutcome.CONSISTENT:
        estimate = check.run.verdict.log_ppm_estimate
        figure = "" if estimate is None else f": {signed_percent(estimate)}"
        return Outcome(
            key,
            "success",
            f"Measured again at random, and the gain was found again{figure}",
            "It was measured with new secret inputs. The confirmed price stays.",
        )
    if check.outcome == CheckOutcome.WAIVED:
        return Outcome(
            key,
            "neutral",
            "Measured again: a maintainer upheld the confirmation",
            f"{check.doubt} A maintainer has upheld the confirmation after a dispute.",
        )
    return Outcome(
        key,
        "neutral",
        "The platform could not measure it again",
        "This changes nothing: the confirmation is still valid.",
    )


def _new_price(row: Repricing) -> Outcome:
    key = f"repricing:{row.pk}"
    if row.award is not None and row.award.amount_microcredits is not None:
        amount = format_credits(row.award.amount_microcredits)
        return Outcome(key, "success", f"Priced again: {amount} credits more", in_credits(row.outcome))
    return Outcome(key, "neutral", "Priced again: the award stays as it was", in_credits(row.outcome))
