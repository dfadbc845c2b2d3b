"""Whose failure it was when base failed: what came of trying base again, without the candidate.

When an event names base, the judge measures the same pair again with base on both sides, in fresh processes and with the
same inputs, of which every answer is compared with the oracle. A build that failed is repeated alone. Base fails on its own
where it fails in two of these attempts, and works where it does not in one. The document has the attempts as `base_checks`;
documents from before there were any lack it and are decided by the rule of their time. Pure.
"""

from enum import StrEnum
from typing import Any

from benchmarks.evidence.bugs import runs_the_patch
from benchmarks.pairs.seats import has_tree

ATTEMPTS = 2
START = "start"  # no code of a tree has run at this stage
# Events by weight: the first kind found decides. A cheat outweighs what it may have broken;
# a failure of the runner outweighs what may have followed from it.
WEIGHT = (
    "policy_violation",
    "protocol_violation",
    "wrong_output",
    "infrastructure_error",
    "resource_limit",
    "timeout",
    "build_failed",
    "crash",
    "quality_loss",
    "suspicious",
    "cancelled",
)

# Whichever side they name: the platform stopped, the runner failed, or the pair was tampered with.
NOT_BASE_S_FAULT = ("cancelled", "infrastructure_error", "policy_violation")


class BaseState(StrEnum):
    """What is known of base after an event that names it."""

    UNTRIED = "untried"  # another attempt decides
    FAILS = "fails"  # on its own, in every attempt
    WORKS = "works"  # paired with itself
    UNKNOWN = "unknown"  # the machine did not let it be tried


def has_rules(document: dict[str, Any]) -> bool:
    """True if the document was made by a judge that tries base again."""
    return "base_checks" in document


def names_base(document: dict[str, Any], event: dict[str, Any]) -> bool:
    """True if an event may be base's own failure: its side ran base's tree, which was loaded or built."""
    if event["kind"] in NOT_BASE_S_FAULT or event.get("stage") == START or runs_the_patch(document, event):
        return False
    return event.get("side") == "base" or document["trees"]["base"] == document["trees"]["candidate"]


def state_of_base(document: dict[str, Any]) -> BaseState:
    """What the document's attempts show."""
    failures = [attempt["failure"] for attempt in document["base_checks"]]
    if None in failures:
        return BaseState.WORKS
    if any(failure["kind"] in NOT_BASE_S_FAULT or failure["stage"] == START for failure in failures):
        return BaseState.UNKNOWN
    return BaseState.FAILS if len(failures) >= ATTEMPTS else BaseState.UNTRIED


def ran_without_the_candidate(document: dict[str, Any], event: dict[str, Any]) -> bool:
    """True if no process of the candidate was in what failed: in a pair of other trees, a calibration, or any pair of a single tree."""
    if document["trees"]["base"] == document["trees"]["candidate"]:
        return True
    if event.get("stage") == "build":
        return False  # both are built at once
    others = {pair["index"] for pair in document["pairs"] if not has_tree(pair["tree"], "candidate")}
    return "pair" not in event or event["pair"] in others


def needs_attempt(document: dict[str, Any], event: dict[str, Any] | None) -> bool:
    """True while the event that decides names base and no one knows yet whose failure it was."""
    return event is not None and names_base(document, event) and state_of_base(document) is BaseState.UNTRIED


def base_failed(document: dict[str, Any]) -> bool:
    """True if a validated document shows that base fails on its own, and that this decided the run."""
    event = deciding_event(document)
    return (
        has_rules(document)
        and event is not None
        and names_base(document, event)
        and state_of_base(document) is BaseState.FAILS
    )


def is_of_runner(document: dict[str, Any]) -> bool:
    """True unless what ended the run was done by a sample: no runner is put out of work for that."""
    event = deciding_event(document)
    return event is None or not has_rules(document) or not names_base(document, event)


def deciding_event(document: dict[str, Any]) -> dict[str, Any] | None:
    """The most severe event; None where there is none. What the old tree did decides nothing."""
    events = [event for event in document["events"] if event.get("side") != "old"]
    return min(events, key=lambda each: WEIGHT.index(each["kind"]), default=None)
