"""Opening, funding and closing bounties. The money is in the ledger's escrow accounts."""

import uuid
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q, Sum
from django.utils import timezone

from benchmarks.catalogue import BUG, payable_suites
from bounty.bounty_numbers import read_name, written
from bounty.errors import BadRequest, NoRunner, NotFound
from bounty.models import (
    OPEN_REPRICING_STATES,
    Award,
    AwardState,
    Bounty,
    BountyState,
    Lineage,
    NextStep,
    Repricing,
    Runner,
    RunnerState,
    Severity,
    Submission,
    SubmissionState,
)
from bounty.rewards import PPM
from bounty.services.permissions import require_maintainer
from bounty.services.transitions import move, note
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger

# Namespace of the ledger ids of steps, so that repeating a step repeats the id.
STEPS = uuid.UUID("5b0e3f0c-7a0d-4d0b-9a64-1f3f6d1a8c11")

SEE_THE_LIST = "The page Bounties and `gainshare bounties` list every bounty with its number."
NOT_A_NAME = f"A bounty is named by its number, such as B12, or by its id. {SEE_THE_LIST}"

REPRODUCTION_PPM = 300_000  # of a bug's award, by default

UNSETTLED = (
    SubmissionState.RECEIVED,
    SubmissionState.CHECKED,
    SubmissionState.QUEUED,
    SubmissionState.JUDGING,
    SubmissionState.CONFIRMING,
    SubmissionState.CONFIRMED,
    SubmissionState.ACCEPTED,
)


def step_id(subject: UUID, step: str) -> UUID:
    """Ledger id of one step of one subject; the same for every repetition."""
    return uuid.uuid5(STEPS, f"{subject}:{step}")


def find_bounty(name: UUID | str) -> Bounty:
    """The bounty with this id or number (`B12`), with its lineage. Raises NotFound."""
    try:
        key = read_name(name) if isinstance(name, str) else name
    except ValueError:
        raise NotFound(NOT_A_NAME) from None
    by = Q(pk=key) if isinstance(key, UUID) else Q(number=key)
    bounty = Bounty.objects.select_related("lineage").filter(by).first()
    if bounty is None:
        shown = written(key) if isinstance(key, int) else key
        raise NotFound(f"There is no bounty {shown}. {SEE_THE_LIST}")
    return bounty


def open_bounty(
    *,
    actor: User,
    title: str,
    lineage: str,
    suite: str,
    preset: str,
    hardware: str,
    escrow_microcredits: int,
    rate_microcredits_per_nat: int = 0,
    description: str = "",
    min_reviewers: int = 1,
    two_reviews_above_microcredits: int | None = None,
    review_window_s: int | None = None,
    max_attempts: int = 10,
    deadline_at: datetime | None = None,
    severity: str = "",
    award_microcredits: int | None = None,
    reproduction_ppm: int | None = None,
    accept_no_runner: bool = False,
) -> Bounty:
    """Open a bounty whose escrow is taken from the treasury in the same transaction.

    Raises NoRunner if no runner has its hardware, unless ``accept_no_runner`` is set.
    A bug bounty has a severity, a fixed award and the reproduction's share of it; any other has a rate.
    """
    require_maintainer(actor, "open a bounty")
    known = payable_suites().get(suite)
    if known is None:
        raise BadRequest(f"There is no such suite; choose one of {', '.join(payable_suites())}.")
    if preset not in known.presets:
        raise BadRequest(f"The suite has no such preset; choose one of {', '.join(known.presets)}.")
    line = Lineage.objects.filter(name=lineage).first()
    if line is None:
        raise NotFound(
            "There is no lineage with this name. Start it on the page Lineages or with POST lineages/."
        )
    if known.presets[preset].is_for_demos and not line.is_demo:
        raise BadRequest(
            f"The preset {preset} is for demo lineages only, because its guard runs have fewer suites. "
            "Choose another preset, or a demo lineage."
        )
    if known is BUG:
        reproduction_ppm = REPRODUCTION_PPM if reproduction_ppm is None else reproduction_ppm
        _require_terms_of_a_bug(
            severity=severity,
            award_microcredits=award_microcredits,
            escrow_microcredits=escrow_microcredits,
            reproduction_ppm=reproduction_ppm,
            is_by_rate=rate_microcredits_per_nat != 0,
            has_window=review_window_s is not None,
        )
    elif severity or award_microcredits is not None or reproduction_ppm is not None:
        raise BadRequest(
            "Severity, award and the reproduction's share are only for bug bounties. Leave them out, or "
            "choose the suite bug."
        )
    elif escrow_microcredits <= 0 or rate_microcredits_per_nat <= 0:
        raise BadRequest("Escrow and rate must be positive numbers of micro-credits.")
    if deadline_at is not None and deadline_at <= timezone.now():
        raise BadRequest("The deadline is in the past. Choose a later time.")
    if not accept_no_runner:
        _require_runner(hardware)
    with transaction.atomic():
        bounty = Bounty.objects.create(
            title=title.strip(),
            description=description,
            lineage=line,
            suite=suite,
            preset=preset,
            hardware=hardware,
            escrow_microcredits=escrow_microcredits,
            rate_microcredits_per_nat=rate_microcredits_per_nat,
            min_reviewers=min_reviewers,
            two_reviews_above_microcredits=two_reviews_above_microcredits,
            review_window_s=review_window_s,
            max_attempts=max_attempts,
            deadline_at=deadline_at,
            created_by=actor,
            severity=severity,
            award_microcredits=award_microcredits,
            reproduction_ppm=reproduction_ppm,
        )
        ledger.open_escrow(
            transfer_id=step_id(bounty.pk, "open"),
            reference=bounty.escrow_reference,
            amount_microcredits=escrow_microcredits,
        )
        note(bounty, old="", new=bounty.state, reason="opened", actor=actor)
    return bounty


def _require_runner(hardware: str) -> None:
    """Raises NoRunner. A drained or quarantined runner counts, because it is expected back."""
    registered = Runner.objects.exclude(state=RunnerState.RETIRED)
    if registered.filter(hardware=hardware).exists():
        return
    known = sorted(set(registered.values_list("hardware", flat=True)))
    there = f"The hardware of registered runners: {', '.join(known)}" if known else "No runner is registered"
    raise NoRunner(
        f"No runner has the hardware {hardware}, so submissions could not be judged. {there}. Register a runner "
        "first, or confirm that the bounty is to be opened without one (over REST: accept_no_runner)."
    )


def _require_terms_of_a_bug(
    *,
    severity: str,
    award_microcredits: int | None,
    escrow_microcredits: int,
    reproduction_ppm: int,
    is_by_rate: bool,
    has_window: bool,
) -> None:
    if severity not in Severity.values:
        raise BadRequest(f"A bug's severity must be one of {', '.join(Severity.values)}.")
    if award_microcredits is None or not 0 < award_microcredits <= escrow_microcredits:
        raise BadRequest("A bug's award must be above zero and at most the escrow.")
    if not 0 <= reproduction_ppm < PPM:
        raise BadRequest("The reproduction's share must be from 0 to below 1000000 millionths of the award.")
    if is_by_rate:
        raise BadRequest("A bug bounty has a fixed award and no rate. Leave the rate out.")
    if has_window:
        raise BadRequest(
            "A bug bounty has no review window, because a fix is paid only after a maintainer accepted "
            "it and it was merged. Leave the window out."
        )


def add_funds(*, actor: User, bounty_id: UUID, transfer_id: UUID, amount_microcredits: int) -> Bounty:
    """Add escrow from the treasury; an exhausted bounty opens again. Repeating the id moves nothing."""
    require_maintainer(actor, "add to a bounty's escrow")
    bounty = find_bounty(bounty_id)
    if bounty.state == BountyState.CLOSED:
        raise BadRequest(
            "The bounty is closed and takes no more credits. Open another one.",
            code="bounty_closed",
            status=409,
        )
    ledger.add_to_escrow(
        transfer_id=transfer_id, reference=bounty.escrow_reference, amount_microcredits=amount_microcredits
    )
    follow_funds(bounty=bounty)
    return bounty


def available_escrow(bounty: Bounty) -> int:
    """Micro-credits in the escrow that are neither paid nor reserved."""
    if bounty.escrow_returned_at is not None:
        return 0
    return ledger.escrow_balance(bounty.escrow_reference).available


def shown_escrow(bounties: Iterable[Bounty]) -> dict[UUID, ledger.EscrowBalance]:
    """Bounty -> its escrow as everyone may see it: what undecided gains have reserved counts as free.

    A reservation is the rate times the gate's estimate, so its size would tell what the gate found.
    """
    found = list(bounties)
    sealed = dict(
        Award.objects.filter(submission__bounty__in=found, state=AwardState.RESERVED)
        .order_by()
        .values_list("submission__bounty")
        .annotate(Sum("reserved_microcredits"))
    )
    balances = ledger.escrow_balances([bounty.escrow_reference for bounty in found])
    shown = {}
    for bounty in found:
        now, free = balances[bounty.escrow_reference], sealed.get(bounty.pk, 0)
        shown[bounty.pk] = ledger.EscrowBalance(now.posted, now.reserved - free, now.available + free)
    return shown


def follow_funds(*, bounty: Bounty) -> None:
    """Set a bounty to exhausted if its escrow is used up, or to open if its escrow has credits again."""
    bounty.refresh_from_db(fields=["state", "escrow_returned_at"])
    if bounty.state == BountyState.CLOSED:
        return
    available = available_escrow(bounty)
    if bounty.state == BountyState.OPEN and available <= 0:
        move(bounty, to=BountyState.EXHAUSTED, reason="all escrow is reserved or paid")
    elif bounty.state == BountyState.EXHAUSTED and available > 0:
        move(bounty, to=BountyState.OPEN, reason=f"{available} micro-credits are available again")


def close_bounty(*, bounty_id: UUID, reason: str, actor: User | None = None) -> Bounty:
    """Close a bounty to submissions. Open ones are still judged and paid; then the rest of the escrow returns."""
    if actor is not None:
        require_maintainer(actor, "close a bounty")
    with transaction.atomic():
        bounty = find_bounty(bounty_id)
        if bounty.state != BountyState.CLOSED:
            move(bounty, to=BountyState.CLOSED, reason=reason, actor=actor, closed_at=timezone.now())
    return_leftover(bounty_id=bounty_id)
    bounty.refresh_from_db()
    return bounty


def _awaits_escrow(bounty: Bounty) -> bool:
    waiting = Submission.objects.filter(bounty=bounty, next_step=NextStep.AWAIT_ESCROW)
    return waiting.exists()


def return_leftover(*, bounty_id: UUID) -> bool:
    """Return a closed bounty's leftover escrow to the treasury when no submission can claim it any more."""
    with transaction.atomic():
        bounty = Bounty.objects.select_for_update(no_key=True).get(pk=bounty_id)
        if bounty.state != BountyState.CLOSED or bounty.escrow_returned_at is not None:
            return False
        submissions = Submission.objects.filter(bounty=bounty)
        if (
            submissions.filter(state__in=UNSETTLED).exists()
            or submissions.filter(awards__state=AwardState.UNVESTED).exists()  # waits for a person's decision
            or submissions.filter(state=SubmissionState.JUDGED, next_step=NextStep.RESERVE).exists()
            or Repricing.objects.filter(
                slow_award__submission__bounty=bounty, state__in=OPEN_REPRICING_STATES
            ).exists()  # what came back is for them
            or (
                _awaits_escrow(bounty) and available_escrow(bounty) > 0
            )  # submissions that wait for escrow come first; beat advances them
        ):
            return False
        ledger.close_escrow(transfer_id=step_id(bounty.pk, "close"), reference=bounty.escrow_reference)
        bounty.escrow_returned_at = timezone.now()
        bounty.save(update_fields=["escrow_returned_at"])
        note(bounty, old=BountyState.CLOSED, new=BountyState.CLOSED, reason="leftover escrow returned")
    return True
