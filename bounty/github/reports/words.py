"""What a check run says, in Markdown: queued, in progress, and completed with its figures."""

from benchmarks.judging.verdicts import VerdictKind
from bounty.github.reports.escaping import code, prose
from bounty.github.reports.figures import NEXT_STEPS, NOT_PROVED, Figure, figures_of, rank_text, table
from bounty.github.reports.links import bounty_link, how_url, submission_url
from bounty.github.reports.outcomes import Outcome, booked_award, is_public, lacks_acceptance
from bounty.models import AwardState, Head, HeadState, RunKind, Submission, SubmissionState
from bounty.pages.progress import Progress
from gainshare.web.formatting import format_credits, in_credits

AFTERWARDS = "after the verdict"
MOST_REASON = 2500  # each character becomes 18 at most, and GitHub takes 65,535
MOST_PATHS = 30
STATES = {
    AwardState.UNVESTED: "spendable after review and merge",
    AwardState.VESTED: "vested",
    AwardState.RETURNED: "went back to the escrow unclaimed",
}
SEALED_HINT = "Results stay hidden until the verdict."


def waiting(head: Head) -> tuple[str, str]:
    """Title and summary of a head that has no submission yet."""
    if head.state == HeadState.SEEN:
        return "Reading its diff", "The diff is being read and sealed. Nothing has to be done."
    if head.state == HeadState.SEALED and head.pull_request.is_draft:
        return (
            "Sealed, not judged while this is a draft",
            "Its place in the sealed order is kept. It is judged when the pull request is ready for review, or after a "
            "comment `/judge`.",
        )
    if head.state == HeadState.SEALED:
        return (
            "Sealed, not judged yet",
            "Its place in the sealed order is kept. Comment `/judge` to have this head judged.",
        )
    problem = head.problem or head.pull_request.problem
    said = prose(problem) if problem else "It is judged as soon as that is possible. Nothing has to be done."
    return "Waiting to be judged", said


def progress(shown: Progress, *, has_begun: bool) -> tuple[str, str]:
    """Title and summary while it is judged, from what everyone may know."""
    title = f"Being judged. {shown.counted}" if has_begun else "Being judged: waiting for a runner"
    return title, f"{prose(shown.detail)}\n\n{shown.counted}. {SEALED_HINT}"


def summary(head: Head, outcome: Outcome) -> str:
    """The outcome in a few sentences: what happened, why, and what to do next."""
    parts = [f"**{prose(outcome.title)}.**"]
    if outcome.reason:
        parts.append(prose(in_credits(outcome.reason), most=MOST_REASON))
    if lacks_acceptance(head):
        parts.append(unmeasured_text(head))
    if step := next_step(head, outcome):
        parts.append(f"**What to do next:** {step}")
    return "\n\n".join(parts)


def details(head: Head, outcome: Outcome) -> str:
    """Figures, what the outcome does not prove, and links."""
    submission = head.submission
    if submission is None:
        return f"[How a patch is judged]({how_url()})"
    parts = [table(figure_rows(submission))]
    if submission.verdict_run_id is not None and is_public(submission):
        parts.append(f"**What it does not prove:** {NOT_PROVED[booked_award(submission) is not None]}")
    parts.append(
        f"[Samples, evidence, log and history]({submission_url(submission)}) · bounty {bounty_link(submission.bounty)} · "
        f"[how a patch is judged]({how_url()})"
    )
    return "\n\n".join(part for part in parts if part)


def figure_rows(submission: Submission) -> list[Figure]:
    """The figures that everyone may see now: of the run that the verdict rests on, its guard rails, award and rank."""
    if not is_public(submission):
        return []
    rows = [] if submission.verdict_run is None else figures_of(submission.verdict_run)
    award = booked_award(submission)
    if award is None or award.amount_microcredits is None:
        return rows
    if submission.runs.filter(kind=RunKind.GUARD, verdict__kind=VerdictKind.GAIN.value).exists():
        rows.append(Figure("Guard rails", "hold"))
    part = ", which is what the escrow held" if award.is_partial else ""
    rows.append(
        Figure(
            "Award",
            f"{format_credits(award.amount_microcredits)} credits{part} ({STATES[AwardState(award.state)]})",
        )
    )
    if rank := rank_text(submission):
        rows.append(Figure("Rank", rank))
    return rows


def next_step(head: Head, outcome: Outcome) -> str:
    """What its author or a maintainer does next; empty where nothing is left to do."""
    submission = head.submission
    if submission is None:
        return {
            "nothing": "Nothing.",
            "queue": "Nothing: a check run of the pull request's own head has its verdict.",
            "refused": "Change the branch as it says, and push. Nothing was run, and no attempt is counted.",
            "replaced": "Nothing: the newest head has a check run of its own.",
            "closed": "Open it again and comment `/judge` to have it judged.",
            "merged": "Nothing. A patch that is sent as a submission can still be judged.",
        }.get(outcome.key, "")
    if submission.state in (SubmissionState.DECLINED, SubmissionState.WITHDRAWN):
        return "Push a new head and comment `/judge` to try again."
    if submission.state == SubmissionState.REVERSED:
        return "Read the reason, and ask a maintainer where it is wrong."
    if submission.state == SubmissionState.REJECTED:
        return NEXT_STEPS[VerdictKind.PATCH_REJECTED]
    if submission.state == SubmissionState.VESTED:
        return ""
    kind = VerdictKind(submission.verdict_kind)
    if kind == VerdictKind.GAIN and booked_award(submission) is None:
        return "Read the reason; `/dispute` and your reason has a maintainer look at it."
    dispute = (
        "" if kind == VerdictKind.GAIN else " Where the verdict is wrong, comment `/dispute` and your reason."
    )
    return NEXT_STEPS.get(kind, "") + dispute


def unmeasured_text(head: Head) -> str:
    """Which changed files nobody measured, and what that means for the award."""
    paths = [code(str(path)) for path in head.unmeasured_paths[:MOST_PATHS]]
    rest = len(head.unmeasured_paths) - len(paths)
    more = f" and {rest} more" if rest > 0 else ""
    return (
        f"It changes code that nobody measured: {', '.join(paths)}{more}. Nothing vests before a maintainer has accepted "
        "that as well, with `/accept` and each of these files. Without them in the pull request, no one has to."
    )
