"""Reproductions: submitted, run on the bounty's tree; the bounty adopts the first one that shows the bug.

The sealed order decides which one is the first, not the end of its run, so a reproduction waits for the
verdicts of earlier ones. The bug's fixes are judged with the adopted one.
"""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.reproduction import NotAReproduction, read_reproduction
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.patch.trees import sha256_hex
from bounty.errors import (
    AlreadyJudged,
    AlreadyReproduced,
    BadRequest,
    BountyClosed,
    NotAllowed,
    NotFound,
    NotReproduced,
    TooManyAttempts,
    WrongState,
)
from bounty.models import (
    COUNTING,
    Bounty,
    BountyState,
    NextStep,
    Reproduction,
    ReproductionState,
    Run,
    RunKind,
    RunState,
    RunVerdict,
    Submission,
)
from bounty.services.bounties import UNSETTLED, find_bounty, open_bounty
from bounty.services.runs.logs import say
from bounty.services.series.base_stops import require_sound_base
from bounty.services.series.best import patch_base
from bounty.services.transitions import move, note
from bounty.services.trees import WAIT_FOR_RENEWAL, blob_store, require_present_layout
from bounty.services.wakeups import wake_runner
from gainshare.accounts.models import User


def adopted(*, bounty: Bounty) -> Reproduction | None:
    """The bounty's adopted reproduction, if it has one."""
    found = Reproduction.objects.filter(bounty=bounty, state=ReproductionState.ADOPTED)
    return found.select_related("author").first()


def require_adopted(*, bounty: Bounty) -> Reproduction:
    """Raises NotReproduced unless the bounty has adopted a reproduction."""
    found = adopted(bounty=bounty)
    if found is None:
        raise NotReproduced(
            "This bug has no reproduction yet, so no fix of it can be judged. Submit a reproduction first, "
            "with `gainshare reproduce` or POST reproductions/."
        )
    return found


S = ReproductionState


def find_reproduction(reproduction_id: UUID) -> Reproduction:
    """The reproduction with its bounty; raises NotFound."""
    found = Reproduction.objects.select_related("bounty__lineage", "author").filter(pk=reproduction_id)
    reproduction = found.first()
    if reproduction is None:
        raise NotFound("There is no such reproduction.")
    return reproduction


def open_bug(*, actor: User, reproduction: str, **terms: Any) -> Bounty:
    """Open a bug bounty together with a reproduction; all of the award is then for the fix."""
    with transaction.atomic():
        bounty = open_bounty(actor=actor, **terms)
        reproduce(actor=actor, bounty_id=bounty.pk, text=reproduction)
    return bounty


def open_by_terms(*, actor: User, reproduction: str = "", **terms: Any) -> Bounty:
    """Open a bounty for gains, or for a bug with or without a reproduction."""
    if reproduction:
        return open_bug(actor=actor, reproduction=reproduction, **terms)
    return open_bounty(actor=actor, **terms)


def reproduce(*, actor: User, bounty_id: UUID, text: str) -> Reproduction:
    """Submit a reproduction and queue its run on the bounty's tree.

    Raises NotFound, BadRequest, BountyClosed, AlreadyReproduced, AlreadyJudged (the same file), TooManyAttempts,
    OldLayout.
    """
    data = text.encode("utf-8", "surrogatepass")
    blob = sha256_hex(data)
    _require_wanted(find_bounty(bounty_id), actor, blob)
    try:
        read_reproduction(data)
    except NotAReproduction as refusal:
        raise BadRequest(f"{str(refusal)[:1].upper()}{str(refusal)[1:]}.") from None
    with transaction.atomic():
        # The lock decides the sealed order: one reproduction at a time per bounty.
        bounty = Bounty.objects.select_for_update(no_key=True).get(pk=bounty_id)
        _require_wanted(bounty, actor, blob)
        tree = patch_base(bounty=bounty)
        require_present_layout(tree.pk, instead=WAIT_FOR_RENEWAL)
        require_sound_base(bounty.lineage)
        blob_store().put(data)
        reproduction = Reproduction.objects.create(
            bounty=bounty, author=actor, blob=blob, tree=tree, earns=actor.pk != bounty.created_by_id
        )
        note(reproduction, old="", new=reproduction.state, reason="reproduction received", actor=actor)
        _queue(reproduction)
    return reproduction


def _require_wanted(bounty: Bounty, actor: User, blob: str) -> None:
    if not bounty.is_for_a_bug:
        raise BadRequest("This bounty is for a gain, not for a bug: submit a diff.")
    if bounty.state == BountyState.CLOSED or bounty.is_past_deadline(timezone.now()):
        raise BountyClosed("The bounty is closed and takes no reproductions.")
    if (first := adopted(bounty=bounty)) is not None:
        raise AlreadyReproduced(
            f"This bug already has its reproduction ({first.pk}). Fix the bug and submit the diff."
        )
    same = Reproduction.objects.filter(bounty=bounty, blob=blob).exclude(
        verdict_kind=VerdictKind.INFRASTRUCTURE_ERROR.value
    )
    if (old := same.first()) is not None:
        raise AlreadyJudged(f"The same file was submitted before: see reproduction {old.pk}.")
    mine = Reproduction.objects.filter(bounty=bounty, author=actor)
    used = mine.exclude(verdict_kind=VerdictKind.INFRASTRUCTURE_ERROR.value).count()
    if used >= bounty.max_attempts:
        raise TooManyAttempts(f"You have submitted {used} reproductions of this bug, which is the limit.")


def _queue(reproduction: Reproduction) -> None:
    bounty = reproduction.bounty
    run = Run.objects.create(
        kind=RunKind.REPRODUCTION,
        reproduction=reproduction,
        suite=bounty.suite,
        preset=bounty.preset,
        hardware=bounty.hardware,
        base_tree=reproduction.tree,
        candidate_tree=reproduction.tree,
        woken_at=timezone.now(),
    )
    note(run, old="", new=run.state, reason="reproduction ordered")
    say(run, f"reproduction run {run.pk} queued: tree {reproduction.tree_id[:12]}")
    wake_runner(run_id=run.pk, hardware=run.hardware)


def settle(*, reproduction_id: UUID) -> Reproduction:
    """Process the verdict of the reproduction's run, and adopt the bug's first reproduction. Repeatable."""
    reproduction = find_reproduction(reproduction_id)
    if reproduction.state == S.QUEUED:
        verdict = (
            RunVerdict.objects.select_related("evidence", "run")
            .filter(run__reproduction=reproduction, run__kind=RunKind.REPRODUCTION)
            .first()
        )
        if verdict is not None:
            _read(reproduction, verdict)
            fault_point("control.reproduction_read")
    adopt_first(bounty_id=reproduction.bounty_id)
    return find_reproduction(reproduction_id)


def _read(reproduction: Reproduction, verdict: RunVerdict) -> None:
    is_trusted = verdict.evidence is not None and verdict.evidence.is_award_eligible
    shows = verdict.kind == VerdictKind.GAIN and is_trusted
    reason = verdict.reason
    if verdict.kind == VerdictKind.GAIN and not is_trusted:
        reason += (
            " It does not count, because the evidence was made in a sandbox that the policy does not trust."
        )
    move(
        reproduction,
        to=S.REPRODUCED if shows else S.REFUSED,
        reason=f"tried: {verdict.kind}",
        verdict_kind=verdict.kind,
        verdict_reason=reason,
        judged_at=timezone.now(),
    )


def adopt_first(*, bounty_id: UUID) -> Reproduction | None:
    """Adopt the first reproduction, unless the bounty has one or an earlier one waits for its verdict."""
    with transaction.atomic():
        bounty = Bounty.objects.select_for_update(no_key=True).get(pk=bounty_id)
        if bounty.state == BountyState.CLOSED or adopted(bounty=bounty) is not None:
            return None
        first = (
            Reproduction.objects.filter(bounty=bounty, state__in=[S.QUEUED, S.REPRODUCED])
            .order_by("sealed_at", "pk")
            .first()
        )
        if first is None or first.state != S.REPRODUCED:
            return None
        move(first, to=S.ADOPTED, reason="the first reproduction that shows the bug")
    fault_point("control.adopted")
    return first


def unsettled_reproductions() -> list[UUID]:
    """Reproductions with an unprocessed verdict, and those that wait to be the first."""
    finished = Run.objects.filter(
        reproduction=OuterRef("pk"), kind=RunKind.REPRODUCTION, state=RunState.FINISHED
    )
    has_first = Reproduction.objects.filter(bounty=OuterRef("bounty"), state=S.ADOPTED)
    waiting = Q(state=S.REPRODUCED) & ~Exists(has_first) & ~Q(bounty__state=BountyState.CLOSED)
    found = Reproduction.objects.filter((Q(state=S.QUEUED) & Exists(finished)) | waiting)
    return list(found.order_by("sealed_at", "pk").values_list("pk", flat=True))


def decline(*, actor: User, reproduction_id: UUID, reason: str) -> Reproduction:
    """Decline a reproduction that shows no bug. The next one in order takes its place.

    Raises NotFound, NotAllowed, BadRequest, WrongState (fixes are being judged with it, or were paid).
    """
    if not reason.strip():
        raise BadRequest("Write why it shows no bug; the author will read it.")
    reproduction = find_reproduction(reproduction_id)
    if not actor.is_maintainer or reproduction.author_id == actor.pk:
        raise NotAllowed("Only a maintainer other than its author can decline a reproduction.")
    with transaction.atomic():
        Bounty.objects.select_for_update(no_key=True).get(pk=reproduction.bounty_id)
        reproduction = find_reproduction(reproduction_id)
        if reproduction.state == S.DECLINED:
            return reproduction
        if reproduction.state not in (S.REPRODUCED, S.ADOPTED):
            raise WrongState(f"A reproduction that is {reproduction.state} cannot be declined.")
        fixes = Submission.objects.filter(bounty=reproduction.bounty_id)
        is_open = Q(state__in=UNSETTLED) | ~Q(next_step=NextStep.NONE)
        if fixes.filter(is_open | Q(awards__state__in=COUNTING)).exists():
            raise WrongState(
                "A fix is being judged with this reproduction, or was paid. Decide about that fix first."
            )
        move(reproduction, to=S.DECLINED, reason=reason, actor=actor)
    adopt_first(bounty_id=reproduction.bounty_id)
    return reproduction
