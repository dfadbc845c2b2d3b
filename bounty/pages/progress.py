"""Progress of a submission while it is judged: stage, pairs, place in the queue."""

from dataclasses import dataclass

from bounty.models import OPEN_RUN_STATES, NextStep, Run, RunKind, RunState, Submission, SubmissionState
from bounty.services.access import Person, sees
from bounty.services.course import looks_done, shown_place
from bounty.services.runs.queues import QueuePlace, queue_place
from bounty.stages import measuring_words, pairs_words, run_title
from bounty.visibility import BEING_JUDGED, Part

SETTLED = frozenset(
    {
        SubmissionState.REJECTED,
        SubmissionState.JUDGED,
        SubmissionState.CONFIRMED,
        SubmissionState.ACCEPTED,
        SubmissionState.DECLINED,
        SubmissionState.VESTED,
        SubmissionState.REVERSED,
        SubmissionState.WITHDRAWN,
    }
)
STAGES = {
    RunState.LEASED: "A runner has taken it",
    RunState.PREPARING: "Fetching the trees and building",
    RunState.GATING: "Measuring pairs",
    RunState.MEASURING: "Measuring pairs",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Present progress. `pairs_max` is 0 while nothing is being measured; `counted` is the pairs in words.

    JSON of the live view.
    """

    state: str
    is_settled: bool
    headline: str
    detail: str
    pairs_done: int
    pairs_max: int
    counted: str


def progress_of(submission: Submission, person: Person) -> Progress:
    """The submission's progress as the person may see it."""
    return _course(submission) if sees(person, Part.COURSE, submission) else _sealed(submission, person)


def _sealed(submission: Submission, person: Person) -> Progress:
    """One state, the place in the queue, and how often the runs were looked at."""
    place = shown_place(submission, person)
    if place is None:
        detail = "The next step is being prepared, or waits for a person, a runner or credits in the escrow."
    elif place.position is None:
        detail = "A runner measures it."
    else:
        detail = f"It waits for a runner. {waiting_text(place)}"
    return Progress(
        state=BEING_JUDGED,
        is_settled=False,
        headline="Being judged",
        detail=detail,
        pairs_done=0,
        pairs_max=0,
        counted=f"Interim checks so far: {looks_done(submission)}",
    )


def _course(submission: Submission) -> Progress:
    """Progress of its newest unfinished run."""
    run = submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).order_by("-queued_at").first()
    is_settled = submission.state in SETTLED and submission.next_step != NextStep.RESERVE and run is None
    headline, detail = describe(submission, run)
    measuring = run is not None and run.state in (RunState.GATING, RunState.MEASURING)
    return Progress(
        state=str(submission.state),
        is_settled=is_settled,
        headline=headline,
        detail=detail,
        pairs_done=run.pairs_done if run is not None and measuring else 0,
        pairs_max=run.pairs_max if run is not None and measuring else 0,
        counted=counted(run) if run is not None and measuring else "",
    )


def counted(run: Run) -> str:
    """Number of measured pairs in words."""
    return pairs_words(
        kind=run.kind, suite=run.suite, preset=run.preset, done=run.pairs_done, most=run.pairs_max
    )


def describe(submission: Submission, run: Run | None) -> tuple[str, str]:
    """Headline and explanation of the present progress."""
    if run is None:
        if submission.next_step == NextStep.AWAIT_ESCROW:
            return (
                "Waiting for escrow",
                "The gate passed, but the bounty's escrow is used up. Judging continues when credits "
                "return to the escrow.",
            )
        return submission.get_state_display(), "The next step is being prepared."
    stage = run_title(run.kind)
    if run.state == RunState.QUEUED:
        place = queue_place(run)
        if place is None:
            return f"{stage}: waiting for a runner", "A runner is about to take it."
        return f"{stage}: waiting for a runner", waiting_text(place)
    if run.state in (RunState.GATING, RunState.MEASURING) and run.kind == RunKind.FIX and not run.pairs_done:
        return f"{stage}: the reproduction", measuring_words(run.kind) + _ends_text(run)
    if run.state in (RunState.GATING, RunState.MEASURING):
        return f"{stage}: measuring pairs", measuring_words(run.kind) + _ends_text(run)
    return f"{stage}: {STAGES[RunState(run.state)].lower()}", f"Attempt {run.attempt}.{_ends_text(run)}"


def _ends_text(run: Run) -> str:
    place = queue_place(run)
    if place is None or not place.ends_in_s:
        return ""
    return f" It ends in about {duration(place.ends_in_s)}, judging by earlier runs."


def waiting_text(place: QueuePlace) -> str:
    """Place in the queue, with the estimated start and end if earlier runs allow an estimate."""
    ahead = "It is next." if not place.position else f"{place.position} ahead of it in the queue."
    if place.runners == 0:
        return f"{ahead} No runner with this hardware is active now."
    if place.waiting_for_device == place.runners:
        return f"{ahead} {device_wait_text(place.runners)}"
    if place.starts_in_s is None:
        return ahead
    starts = f" Starts in about {duration(place.starts_in_s)}" if place.starts_in_s else " Starts now"
    ends = "" if place.ends_in_s is None else f", ends in about {duration(place.ends_in_s)}"
    return f"{ahead}{starts}{ends}."


def device_wait_text(runners: int) -> str:
    """Explanation for the case that every runner waits for its device."""
    who = (
        "The runner waits for its device" if runners == 1 else f"All {runners} runners wait for their devices"
    )
    return f"{who}: other work on the same machine uses it. The start cannot be estimated."


def duration(seconds: int) -> str:
    """A rounded duration: `40 s`, `3 min`."""
    return f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"
