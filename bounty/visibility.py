"""The table of who sees what of a submission, and when. Pure; `docs/concepts/judging.md` shows the same table.

Until a submission is decided, nothing that was measured helps anyone to try again: not its author, and not a rival who
reads the diff. That a gate passed is a measurement too, so there is one public state, `BEING_JUDGED`.
`bounty.services.access` finds out who is asking.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Viewer(StrEnum):
    """Who asks. A maintainer with an open submission in the same lineage competes with the author."""

    AUTHOR = "author"
    UNINVOLVED = "uninvolved maintainer"
    COMPETING = "competing maintainer"
    OTHER = "anyone else"


class Phase(StrEnum):
    """How far a submission is, as far as its secrecy goes."""

    BEING_JUDGED = "being judged"  # queued, being measured, priced again, waiting for escrow or, as a copy, for its original
    FAILED = "failed"  # the platform could not measure: judged again, or sent in again
    IN_DOUBT = "in doubt"  # suspicious or disputed: a maintainer decides
    CLOSED = "closed"  # rejected or withdrawn
    DECIDED = "decided"  # a final verdict, confirmed, accepted, declined, vested, reversed


class Part(StrEnum):
    """What there is to see. Who sent it, when, its digest, its place in the queue and its looks are always public."""

    COURSE = "course"  # its state, its runs and their kinds, its history
    SOURCE = "source"  # the diff, the candidate's tree, and the platform's lines of the log
    VERDICT = "verdict"  # its kind, and its reason without figures
    FIGURES = "figures"  # verdicts of runs, samples, evidence, the award, and what the code printed


_NO_ONE: frozenset[Viewer] = frozenset()
_EVERYONE = frozenset(Viewer)
_AUTHOR_AND_JUDGE = frozenset({Viewer.AUTHOR, Viewer.UNINVOLVED})
_AUTHOR_AND_MAINTAINERS = _AUTHOR_AND_JUDGE | {Viewer.COMPETING}

SEEN_BY: Mapping[Phase, Mapping[Part, frozenset[Viewer]]] = MappingProxyType(
    {
        Phase.BEING_JUDGED: {
            Part.COURSE: frozenset({Viewer.UNINVOLVED}),
            Part.SOURCE: _AUTHOR_AND_JUDGE,
            Part.VERDICT: _NO_ONE,
            Part.FIGURES: _NO_ONE,
        },
        Phase.FAILED: {
            Part.COURSE: _AUTHOR_AND_JUDGE,
            Part.SOURCE: _AUTHOR_AND_JUDGE,
            Part.VERDICT: _AUTHOR_AND_JUDGE,
            Part.FIGURES: _NO_ONE,
        },
        Phase.IN_DOUBT: {
            Part.COURSE: _AUTHOR_AND_JUDGE,
            Part.SOURCE: _AUTHOR_AND_JUDGE,
            Part.VERDICT: _AUTHOR_AND_JUDGE,
            Part.FIGURES: frozenset({Viewer.UNINVOLVED}),
        },
        Phase.CLOSED: {
            Part.COURSE: _EVERYONE,
            Part.SOURCE: _AUTHOR_AND_MAINTAINERS,
            Part.VERDICT: _EVERYONE,
            Part.FIGURES: _AUTHOR_AND_MAINTAINERS,
        },
        Phase.DECIDED: dict.fromkeys(Part, _EVERYONE),
    }
)
LOGGED_PARTS = (
    Part.SOURCE,
    Part.VERDICT,
    Part.FIGURES,
)  # the course is in every list that a maintainer works with
UNDECIDED = frozenset({Phase.BEING_JUDGED, Phase.FAILED, Phase.IN_DOUBT})
BEING_JUDGED = "being_judged"  # the state of a submission whose course is sealed


def may_see(viewer: Viewer, part: Part, phase: Phase) -> bool:
    """Whether the table shows this part of a submission in this phase to this viewer."""
    return viewer in SEEN_BY[phase][part]


def is_logged(viewer: Viewer, part: Part, phase: Phase) -> bool:
    """Whether looking at a part leaves a record: a maintainer looks at what is sealed for others."""
    return viewer is Viewer.UNINVOLVED and part in LOGGED_PARTS and phase in UNDECIDED


def without_figures(text: str) -> str:
    """The sentences of a verdict's reason that hold no digit."""
    sentences = re.split(r"(?<=[.!?:;])\s+", text)
    return " ".join(sentence for sentence in sentences if not re.search(r"\d", sentence))
