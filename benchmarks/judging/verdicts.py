"""The verdicts that a run can end with. Plain values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class VerdictKind(StrEnum):
    """Kinds of verdicts. Every verdict has a reason that says what to do next."""

    GAIN = "gain"  # faster, by more than chance and more than the minimum effect explain
    NO_GAIN = "no_gain"  # not shown to be faster
    REGRESSION = "regression"  # slower
    WRONG_OUTPUT = "wrong_output"  # an answer differs from base's or from the oracle's beyond the tolerance
    QUALITY_LOSS = "quality_loss"  # numerically allowed, but held-out loss is worse
    BUILD_FAILED = "build_failed"  # did not compile or import
    PATCH_REJECTED = (
        "patch_rejected"  # could not be read, applied, or was outside the policy: nothing was run
    )
    TIMEOUT = "timeout"  # did not answer in time
    RESOURCE_LIMIT = "resource_limit"  # went over memory, processes, scratch space or output
    POLICY_VIOLATION = "policy_violation"  # did while running what the policy forbids
    SUSPICIOUS = "suspicious"  # the numbers are not believable without a human's look
    INFRASTRUCTURE_ERROR = (
        "infrastructure_error"  # the runner's fault, shown by evidence from outside the sandbox
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run's outcome.

    `log_ppm_estimate` and `log_ppm_bound` are ln(base time / candidate time) in millionths of a nat, rounded
    down (against the contributor): the estimate and its one-sided bound, which `bound_side` names; None where nothing
    was measured.
    `pairs` counts the complete measured pairs, control pairs not included.
    """

    kind: VerdictKind
    reason: str
    log_ppm_estimate: int | None = None
    log_ppm_bound: int | None = None
    pairs: int = 0


def bound_side(*, run_kind: str, verdict: str) -> Literal["lower", "upper"]:
    """Name the bound of the effect that a verdict states: a gate that finds a regression states an upper bound."""
    is_upper = verdict == VerdictKind.REGRESSION and run_kind in ("gate", "aa")
    return "upper" if is_upper else "lower"
