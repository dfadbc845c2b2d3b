"""Who is asking about a submission, and what they may see of it. Looks of maintainers at sealed parts are on record."""

from collections.abc import Iterable
from datetime import timedelta

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import NotAllowed, Sealed
from bounty.models import DisputeState, Lineage, Look, NextStep, Run, Submission, SubmissionState
from bounty.visibility import UNDECIDED, Part, Phase, Viewer, is_logged, may_see
from gainshare.accounts.models import User

S = SubmissionState
Person = User | AnonymousUser

CLOSED = frozenset({S.REJECTED, S.WITHDRAWN})
DECIDED = frozenset({S.CONFIRMED, S.ACCEPTED, S.DECLINED, S.VESTED, S.REVERSED})
UNCERTAIN = (VerdictKind.SUSPICIOUS.value, VerdictKind.INFRASTRUCTURE_ERROR.value)
ENDED = (*CLOSED, S.DECLINED, S.VESTED, S.REVERSED)
SAME_LOOK = timedelta(minutes=10)  # one record for a page that is read several times


def phase_of(submission: Submission) -> Phase:
    """The submission's phase of secrecy. Reads its disputes, which a list fetches beforehand."""
    if submission.state in CLOSED:
        return Phase.CLOSED
    if any(dispute.state == DisputeState.OPEN for dispute in submission.disputes.all()):
        return Phase.IN_DOUBT
    if submission.state in DECIDED:
        return Phase.DECIDED
    if submission.state != S.JUDGED or submission.next_step != NextStep.NONE:
        return Phase.BEING_JUDGED
    if submission.verdict_kind == VerdictKind.SUSPICIOUS:
        return Phase.IN_DOUBT
    return Phase.FAILED if submission.verdict_kind == VerdictKind.INFRASTRUCTURE_ERROR else Phase.DECIDED


def is_decided(submission: Submission) -> bool:
    """Whether its verdict is final: no further step, no suspicion or dispute, no failure of the platform."""
    return phase_of(submission) not in UNDECIDED and submission.state != S.WITHDRAWN


def viewer_of(person: Person, submission: Submission) -> Viewer:
    """What the person is to this submission."""
    if not isinstance(person, User):
        return Viewer.OTHER
    if submission.submitter_id == person.pk:
        return Viewer.AUTHOR
    if not person.is_maintainer:
        return Viewer.OTHER
    return (
        Viewer.COMPETING if has_open_submission(person, submission.bounty.lineage_id) else Viewer.UNINVOLVED
    )


def has_open_submission(person: User, lineage_id: int) -> bool:
    """Whether something of theirs in this lineage may still be measured, reviewed or paid."""
    return open_submissions_of(person).filter(bounty__lineage=lineage_id).exists()


def open_submissions_of(person: User) -> QuerySet[Submission]:
    """The person's submissions that may still be measured, reviewed or paid."""
    final = Q(state=S.JUDGED, next_step=NextStep.NONE) & ~Q(verdict_kind__in=UNCERTAIN)
    own = Submission.objects.filter(submitter=person).exclude(state__in=ENDED)
    return own.exclude(final & ~Q(disputes__state=DisputeState.OPEN))


def sees(person: Person, part: Part, submission: Submission, *, is_look: bool = True) -> bool:
    """Whether the person may see this part now. A maintainer's look at a sealed part is put on record."""
    phase = phase_of(submission)
    if may_see(Viewer.OTHER, part, phase):
        return True
    viewer = viewer_of(person, submission)
    if not may_see(viewer, part, phase):
        return False
    if is_look and is_logged(viewer, part, phase):
        _record(person, part, submission, phase)
    return True


def _record(person: Person, part: Part, submission: Submission, phase: Phase) -> None:
    assert isinstance(person, User), "only maintainers are logged"
    recent = Q(viewer=person, part=part, created_at__gt=timezone.now() - SAME_LOOK)
    if not submission.looks.filter(recent).exists():
        Look.objects.create(submission=submission, viewer=person, part=part, phase=phase)


def require_sight(person: Person, part: Part, submission: Submission) -> None:
    """Raises Sealed where the person may not see this part yet."""
    if sees(person, part, submission):
        return
    phase = phase_of(submission)
    if phase is Phase.CLOSED:
        raise Sealed("Of a rejected or withdrawn submission, only its author and maintainers see this.")
    if part is Part.COURSE:
        raise Sealed("This run belongs to a submission that is being judged. Look again after the verdict.")
    if part is Part.SOURCE:
        raise Sealed(
            "This submission is being judged: until it is decided, only its author and maintainers without an open "
            "submission in its lineage see its diff, tree and log. Look again after the verdict."
        )
    raise Sealed("This submission is being judged: what was measured stays sealed until it is decided.")


def sees_run(person: Person, run: Run) -> bool:
    """Whether the person may see the figures of a run. Those of A/A runs and reproductions are public."""
    return run.submission is None or sees(person, Part.FIGURES, run.submission)


def sees_course(person: Person, run: Run) -> bool:
    """Whether the person may see which kind of run this is, and how far it has come."""
    return run.submission is None or sees(person, Part.COURSE, run.submission)


def require_uninvolved(person: User, submission: Submission) -> None:
    """Raises NotAllowed for a maintainer who competes with a submission that is not decided yet, whatever its state."""
    if phase_of(submission) in UNDECIDED and viewer_of(person, submission) is Viewer.COMPETING:
        raise NotAllowed(
            "You have an open submission in this lineage, so you cannot decide about another one before its verdict. "
            "Ask a maintainer who has none."
        )


def require_tree_sight(person: Person, tree_hash: str) -> None:
    """Raises Sealed for a tree that is only known as the candidate of submissions that the person may not see."""
    candidates = _submissions_of(tree_hash)
    if not candidates or _is_built_on(tree_hash):
        return
    for submission in candidates:
        if sees(person, Part.SOURCE, submission):
            return
    require_sight(person, Part.SOURCE, candidates[0])


def require_public_tree(tree_hash: str) -> None:
    """Raises Sealed for a sealed candidate. What others build on is public, so it may not become a base."""
    try:
        require_tree_sight(AnonymousUser(), tree_hash)
    except Sealed:
        raise Sealed(
            "This tree is the candidate of a submission that is not decided, so it cannot be a base yet: that would "
            "make it public. Wait for the submission's verdict."
        ) from None


def _is_built_on(tree_hash: str) -> bool:
    """Whether others must have the tree: it is, or was, what diffs are made against or candidates measured against."""
    return (
        Lineage.objects.filter(Q(tip=tree_hash) | Q(origin=tree_hash)).exists()
        or Submission.objects.filter(base_tree=tree_hash).exists()
        or Run.objects.filter(base_tree=tree_hash).exists()
    )


def _submissions_of(tree_hash: str) -> list[Submission]:
    found: Iterable[Submission] = (
        Submission.objects.filter(candidate_tree=tree_hash)
        .select_related("bounty")
        .prefetch_related("disputes")
        .order_by("sealed_at")
    )
    return list(found)
