"""Display names of a submission's stages and runs. Pure functions."""

from benchmarks.catalogue import guarding_suites
from benchmarks.catalogue.facts import count
from bounty.models import RunKind, SubmissionState

_WHEN_CONFIRMING = {
    RunKind.CONFIRMATION: "price",
    RunKind.RECHECK: "price, measured again",
    RunKind.COMPARISON: "price, against one more tree",
    RunKind.GUARD: "guard rails",
    RunKind.FIX: "tested again",
}
_RUNS = {
    RunKind.GATE: "Gate run",
    RunKind.CONFIRMATION: "Confirmation run",
    RunKind.COMPARISON: "Comparison run",
    RunKind.GUARD: "Confirming: guard rails",
    RunKind.RECHECK: "Re-measurement",
    RunKind.REPRODUCTION: "Reproduction",
    RunKind.TIP: "Check of a merged tree",
    RunKind.FIX: "Testing the fix",
}
_WHAT = {
    RunKind.GATE: "The run ends as soon as the result is clear. Results stay hidden until the verdict.",
    RunKind.CONFIRMATION: "A fixed number of fresh pairs. Only their lower bound sets the award.",
    RunKind.COMPARISON: "The price is measured against one more tree. The lowest of the bounds counts.",
    RunKind.GUARD: "The other suites, peak memory and load time are measured: nothing else may become worse.",
    RunKind.RECHECK: "The gain is measured again, with new secret inputs and on another host if there is one.",
    RunKind.TIP: "Fresh pairs of the tree before a merge and the merged tree: does it still have what was paid for it?",
    RunKind.FIX: "The reproduction is run three times on each tree, then one pair of every quick suite is measured.",
}


def stage(state: str, kind: str | None) -> str:
    """The submission's state, with the measurement in progress: "confirming: guard rails".

    ``kind`` is that of its unfinished run, None where there is none.
    """
    if kind is None:
        return str(state)
    if state == SubmissionState.CONFIRMING:
        return f"{state}: {_WHEN_CONFIRMING[RunKind(kind)]}"
    if kind == RunKind.RECHECK and state == SubmissionState.VESTED:
        return f"{state}: measured again, because its base proved slow"
    if kind == RunKind.RECHECK:
        return f"{state}: random re-measurement"
    return str(state)


def run_title(kind: str) -> str:
    """A run's name on a page."""
    return _RUNS.get(RunKind(kind), "Run")


def measuring_words(kind: str) -> str:
    """Explanation of a kind of run, for the time that it is measured."""
    return _WHAT.get(RunKind(kind), "")


def pairs_words(*, kind: str, suite: str, preset: str, done: int, most: int) -> str:
    """Progress of a measuring run, without results; empty while nothing is measured."""
    if not most:
        return ""
    if kind in (RunKind.GATE, RunKind.AA):
        return f"{done} pairs; the next interim check is at {most}"
    if kind == RunKind.GUARD:
        others = count(len(guarding_suites(suite, preset)), "other suite")
        rails = f"{done} of {most} pairs over the rails of {others}"
        return f"{rails}; more for rails that are not clear yet"
    return f"{done} of {most} pairs"
