"""The bounty app's part of the home page: open bounties, credits paid, latest gain, next steps."""

from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count
from django.urls import reverse
from django.utils import timezone

from bounty.models import Award, Bounty, Submission, SubmissionState
from bounty.pages.bounties import example_award, suite_title
from bounty.pages.desk import n_waiting
from bounty.pages.run_views import RunPlot, plots_of
from bounty.services.bounties import shown_escrow
from bounty.services.overview import Overview, overview
from gainshare.accounts.models import User
from gainshare.web.home_parts import HomePart, Suggestion

SHOWN = 4  # open bounties
S = SubmissionState
BEING_JUDGED = (S.RECEIVED, S.CHECKED, S.QUEUED, S.JUDGING, S.CONFIRMING)
AWAIT_OTHERS = (S.CONFIRMED, S.ACCEPTED)


@dataclass(frozen=True, slots=True)
class OpenBounty:
    """One bounty in the list. `pays_microcredits` is the award for a bug, else for a gain of 10 %."""

    bounty: Bounty
    suite_title: str
    left_microcredits: int
    pays_microcredits: int


def home_part(viewer: User | AnonymousUser) -> HomePart:
    """The part of the home page that is the same for all users."""
    seen = overview(now=timezone.now(), shown=SHOWN)
    return HomePart(
        "bounty/home.html",
        {"overview": seen, "bounties": open_bounties(seen), "plot": plot_of(seen.latest)},
    )


def open_bounties(seen: Overview) -> list[OpenBounty]:
    escrows = shown_escrow(seen.bounties)
    return [
        OpenBounty(bounty, suite_title(bounty.suite), escrows[bounty.pk].available, example_award(bounty))
        for bounty in seen.bounties
    ]


def plot_of(gain: Award | None) -> RunPlot | None:
    """Plot of the run that priced the gain; None without a gain or without evidence."""
    run = gain.confirmation_run if gain is not None else None
    if run is None or run.verdict.evidence is None:
        return None
    return next(iter(plots_of(run, run.verdict, run.verdict.evidence.samples)), None)


def next_steps(user: User) -> list[Suggestion]:
    """Next steps for this user: open tasks, running patches, or a first patch."""
    steps = []
    if user.is_maintainer and (waiting := n_waiting(user)):
        steps.append(Suggestion(f"Decide about open tasks: {waiting} on your to-do page.", reverse("desk")))
    counts = Submission.objects.filter(submitter=user).values_list("state").annotate(n=Count("pk"))
    by_state: dict[str, int] = dict(counts)
    own = reverse("submissions")
    if judged := sum(by_state.get(state, 0) for state in BEING_JUDGED):
        steps.append(Suggestion(f"Watch your patches: {judged} being judged now.", own))
    if others := sum(by_state.get(state, 0) for state in AWAIT_OTHERS):
        steps.append(Suggestion(f"Your confirmed gains: {others} not yet merged and paid.", own))
    if not by_state and not user.is_maintainer:
        steps.append(Suggestion("Pick a bounty and submit your first patch.", reverse("bounties")))
    return steps
