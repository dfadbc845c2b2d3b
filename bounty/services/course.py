"""The course of a submission as others see it: one state until it is decided, its place in the queue, and its looks.

That a confirmation is being measured tells that a gate has passed. So lists, filters and pages show the state, the runs
and the history only to those for whom `bounty.visibility` opens them; everyone else sees `BEING_JUDGED`.

One thing cannot be hidden: a submission that was being measured and waits in the queue again. Its next run makes others
wait, so the places of others would tell the same. Mostly its gate has passed then; a lost attempt looks the same.
"""

from dataclasses import replace

from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When

from benchmarks.statistics.gate import LOOKS
from bounty.models import Dispute, DisputeState, NextStep, Run, StateChange, Submission, SubmissionState
from bounty.services.access import (
    CLOSED,
    DECIDED,
    UNCERTAIN,
    Person,
    open_submissions_of,
    sees,
)
from bounty.services.runs.queues import QueuePlace, queue_place
from bounty.services.transitions import history
from bounty.visibility import BEING_JUDGED, Part
from gainshare.accounts.models import User

S = SubmissionState
BEFORE_JUDGING = frozenset({S.RECEIVED.value, S.CHECKED.value})


def shown_state(submission: Submission, person: Person) -> str:
    """The submission's state as this person may see it."""
    is_shown = sees(person, Part.COURSE, submission)
    return str(submission.state) if is_shown else BEING_JUDGED


def with_shown_state(submissions: QuerySet[Submission], person: Person) -> QuerySet[Submission]:
    """The same submissions with `shown_state`, so that a filter finds nothing which the state itself would not tell."""
    hidden = When(hidden_course(person), then=Value(BEING_JUDGED))
    return submissions.annotate(shown_state=Case(hidden, default=F("state")))


def hidden_course(person: Person) -> Q:
    """Condition for submissions whose course the person may not see: `sees(person, Part.COURSE, ...)` in SQL."""
    in_dispute = Exists(Dispute.objects.filter(submission=OuterRef("pk"), state=DisputeState.OPEN))
    settled = Q(state=S.JUDGED, next_step=NextStep.NONE)
    being_judged = ~Q(state__in=DECIDED) & ~settled & ~Q(in_dispute)
    undecided = ~Q(state__in=CLOSED) & (
        being_judged | Q(in_dispute) | settled & Q(verdict_kind__in=UNCERTAIN)
    )
    if not isinstance(person, User):
        return undecided
    hidden = undecided & ~(Q(submitter=person) & ~being_judged)
    if not person.is_maintainer:
        return hidden
    rivals = open_submissions_of(person).values("bounty__lineage")
    return hidden & (Q(submitter=person) | Q(bounty__lineage__in=rivals))


def shown_runs(submission: Submission, person: Person) -> list[Run]:
    """The submission's runs, none while its course is sealed for the person."""
    return list(submission.runs.all()) if sees(person, Part.COURSE, submission) else []


def shown_history(submission: Submission, person: Person) -> list[StateChange]:
    """The submission's changes of state; those before its judging only while its course is sealed for the person."""
    changes = history(submission)
    if sees(person, Part.COURSE, submission):
        return changes
    return [change for change in changes if change.new in BEFORE_JUDGING]


def shown_place(submission: Submission, person: Person) -> QueuePlace | None:
    """Place of the submission's waiting or running run. How long it takes would tell which run it is."""
    places = (queue_place(run) for run in submission.runs.all())
    place = next((place for place in places if place is not None), None)
    if place is None or sees(person, Part.COURSE, submission):
        return place
    return replace(place, ends_in_s=None)


def looks_done(submission: Submission) -> int:
    """How many of the looks at 6, 12, 24 and 48 pairs one gate would have had after the pairs of all its runs together.

    Counted by run, the sum would soon be more than a gate alone can have, which tells that another run is measured.
    """
    n_pairs = sum(run.pairs_done for run in submission.runs.all())
    return sum(n_pairs >= look for look in LOOKS)
