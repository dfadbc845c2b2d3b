"""The check runs that a pull request's heads should have now, from rows alone.

Each head has one, `verdict`. It is queued, then in progress, and ends with the first outcome that everyone may know. From then
on it never changes: what comes later (another price, another measurement, a reversal, an award restored) is a check run of
its own, `again:2` and so on, which is created completed. `success` needs a booked award, so a confirmation and guard rails.
"""

from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.db.models import Prefetch

from bounty.github.app.facts import CheckRunFields
from bounty.github.reports import words
from bounty.github.reports.escaping import title
from bounty.github.reports.later import later_outcomes
from bounty.github.reports.links import how_url, submission_url
from bounty.github.reports.outcomes import Outcome, outcome_of
from bounty.models import Head, HeadState, PullRequest, Report, ReportKind
from bounty.pages.progress import progress_of

NAME = "Gainshare"
VERDICT = "verdict"
AGAIN = "again"
MOST_CHARS = 65_000  # of a summary and of a text: GitHub takes 65,535


@dataclass(frozen=True, slots=True)
class WantedCheck:
    """A check run as it should be. ``outcome`` is what it tells, empty while it is not final."""

    head: Head
    subject: str
    fields: CheckRunFields
    outcome: str = ""


def wanted_checks(pull_request: PullRequest) -> list[WantedCheck]:
    """The check runs that should be there or are still missing. Final ones that were written down are left out."""
    return [check for head in heads_of(pull_request) for check in _of_head(head)]


def heads_of(pull_request: PullRequest) -> list[Head]:
    """Its heads as reports read them, the oldest first."""
    checks = Report.objects.filter(kind=ReportKind.CHECK).order_by("pk")
    heads = pull_request.heads.select_related(
        "pull_request", "submission__bounty__lineage", "submission__submitter", "submission__verdict_run"
    )
    return list(heads.prefetch_related(Prefetch("reports", checks), "submission__disputes"))


def told_of(head: Head) -> list[Report]:
    """The final check runs of its verdict and what came after it, in their order."""
    chain = [
        row
        for row in head.reports.all()
        if row.is_final and row.subject.partition(":")[0] in (VERDICT, AGAIN)
    ]
    return sorted(chain, key=lambda row: row.pk)


def _of_head(head: Head) -> list[WantedCheck]:
    told, outcome = told_of(head), outcome_of(head)
    found = []
    if not told:
        found.append(_open(head) if outcome is None else _final(head, VERDICT, NAME, outcome))
    elif outcome is not None and outcome.key != told[-1].outcome:
        name = f"{NAME}: {words.AFTERWARDS}"
        found.append(_final(head, f"{AGAIN}:{len(told) + 1}", name, outcome))
    if head.submission is None or outcome is None or not told:
        return found
    known = {row.subject for row in head.reports.all() if row.is_final}
    found += [
        _final(head, later.key, f"{NAME}: {later.name}", later.outcome)
        for later in later_outcomes(head.submission)
        if later.key not in known
    ]
    return found


def _final(head: Head, subject: str, name: str, outcome: Outcome) -> WantedCheck:
    fields = CheckRunFields(
        name=name,
        status="completed",
        title=title(outcome.title),
        summary=words.summary(head, outcome)[:MOST_CHARS],
        text=words.details(head, outcome)[:MOST_CHARS],
        conclusion=outcome.conclusion,
        details_url=_url(head),
    )
    return WantedCheck(head, subject, fields, outcome.key)


def _open(head: Head) -> WantedCheck:
    status, headline, summary = _progress(head)
    fields = CheckRunFields(
        name=NAME, status=status, title=title(headline), summary=summary[:MOST_CHARS], details_url=_url(head)
    )
    return WantedCheck(head, VERDICT, fields)


def _progress(head: Head) -> tuple[str, str, str]:
    """Status, title and summary of a head without an outcome: nothing that would tell which run is measured."""
    submission = head.submission
    if submission is None:
        return "queued", *words.waiting(head)
    shown = progress_of(submission, AnonymousUser())
    has_begun = submission.runs.filter(leased_at__isnull=False).exists()
    return ("in_progress" if has_begun else "queued"), *words.progress(shown, has_begun=has_begun)


def _url(head: Head) -> str:
    return how_url() if head.submission is None else submission_url(head.submission)


def is_being_judged(head: Head) -> bool:
    """Whether its check run may change by itself: its place in the queue, and its looks."""
    return head.state == HeadState.SUBMITTED and outcome_of(head) is None
