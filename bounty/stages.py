"""What a submission is doing now, in the words that people read. Pure."""

from benchmarks.catalogue import guarding_suites
from bounty.models import RunKind, SubmissionState

_WHEN_CONFIRMING = {
    RunKind.CONFIRMATION: "price",
    RunKind.RECHECK: "price, measured anew",
    RunKind.GUARD: "guard rails",
    RunKind.FIX: "tried once more",
}
_RUNS = {
    RunKind.GATE: "Gate run",
    RunKind.CONFIRMATION: "Confirmation run",
    RunKind.GUARD: "Confirming: guard rails",
    RunKind.RECHECK: "Re-measurement",
    RunKind.REPRODUCTION: "Reproduction",
    RunKind.FIX: "Trying the fix",
}
_WHAT = {
    RunKind.GATE: "It stops as soon as the pairs decide. Results stay hidden until the verdict.",
    RunKind.CONFIRMATION: "A fixed number of fresh pairs; their lower bound alone sets the award.",
    RunKind.GUARD: "The other suites, peak memory and load time: nothing else may become worse.",
    RunKind.RECHECK: "The gain is measured once more, with fresh secrets; elsewhere, if there is another host.",
    RunKind.FIX: "Three attempts of the reproduction on each tree, then one pair of every quick suite.",
}


def stage(state: str, kind: str | None) -> str:
    """The submission's state, with what is being confirmed or checked: "confirming: guard rails".

    ``kind`` is that of its unfinished run, None where there is none.
    """
    if kind is None:
        return str(state)
    if state == SubmissionState.CONFIRMING:
        return f"{state}: {_WHEN_CONFIRMING[RunKind(kind)]}"
    if kind == RunKind.RECHECK:
        return f"{state}: random re-measurement"
    return str(state)


def run_title(kind: str) -> str:
    """A run's name on a page."""
    return _RUNS.get(RunKind(kind), "Run")


def measuring_words(kind: str) -> str:
    """What it means that this kind of run is being measured."""
    return _WHAT.get(RunKind(kind), "")


def pairs_words(*, kind: str, suite: str, preset: str, done: int, most: int) -> str:
    """How far a measuring run is, without a word about results; empty while nothing is measured."""
    if not most:
        return ""
    if kind in (RunKind.GATE, RunKind.AA):
        return f"{done} pairs; the next look is at {most}"
    if kind == RunKind.GUARD:
        n_suites = len(guarding_suites(suite, preset))
        return f"{done} of {most} pairs over the rails of {n_suites} other suites; more where a rail is not clear yet"
    return f"{done} of {most} pairs"
