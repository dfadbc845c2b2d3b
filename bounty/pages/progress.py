"""Where a submission is, as its page shows it while the judge works: stage, pairs, place in the queue."""

from dataclasses import dataclass

from bounty.models import OPEN_RUN_STATES, NextStep, Run, RunKind, RunState, Submission, SubmissionState
from bounty.services.queues import queue_place

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
    """What is going on now. `pairs_max` is 0 while nothing is being measured. JSON of the live view."""

    state: str
    is_settled: bool
    headline: str
    detail: str
    pairs_done: int
    pairs_max: int


def progress_of(submission: Submission) -> Progress:
    """The submission's progress, from its newest unfinished run."""
    run = submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).order_by("-queued_at").first()
    is_settled = submission.state in SETTLED and submission.next_step != NextStep.RESERVE
    headline, detail = describe(submission, run)
    measuring = run is not None and run.state in (RunState.GATING, RunState.MEASURING)
    return Progress(
        state=str(submission.state),
        is_settled=is_settled,
        headline=headline,
        detail=detail,
        pairs_done=run.pairs_done if run is not None and measuring else 0,
        pairs_max=run.pairs_max if run is not None and measuring else 0,
    )


def describe(submission: Submission, run: Run | None) -> tuple[str, str]:
    """A headline and what it means for the reader."""
    if run is None:
        if submission.next_step == NextStep.AWAIT_ESCROW:
            return (
                "Waiting for escrow",
                "The gate passed, but the bounty's escrow is used up. It goes on if some comes back.",
            )
        return submission.get_state_display(), "The next step is being prepared."
    stage = "Confirmation run" if run.kind == RunKind.CONFIRMATION else "Gate run"
    if run.state == RunState.QUEUED:
        place = queue_place(run)
        if place is None:
            return f"{stage}: waiting for a runner", "It is about to be taken."
        ahead = "It is next." if place.position == 0 else f"{place.position} ahead of it."
        eta = "" if place.eta_s is None else f" About {duration(place.eta_s)} to go."
        return f"{stage}: waiting for a runner", ahead + eta
    if run.state in (RunState.GATING, RunState.MEASURING):
        what = (
            "A fixed number of fresh pairs; their lower bound alone sets the award."
            if run.kind == RunKind.CONFIRMATION
            else "It stops as soon as the pairs decide. Results stay hidden until the verdict."
        )
        return f"{stage}: measuring pairs", what
    return f"{stage}: {STAGES[RunState(run.state)].lower()}", f"Attempt {run.attempt}."


def duration(seconds: int) -> str:
    """A rough time to wait: `40 s`, `3 min`."""
    return f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"
