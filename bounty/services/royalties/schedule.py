"""What beat does for royalties: note deployments, end terms, pay the days that are over, vest what has waited."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from django.db import transaction
from django.utils import timezone

from bounty.limits import REVERSAL_WINDOW
from bounty.models import RoyaltyDay, RoyaltyTerm, Submission, SubmissionState, Switch
from bounty.services.emergency import is_stopped
from bounty.services.royalties.days import pay_day, terms_of_day
from bounty.services.royalties.terms import note_deployment, settle_terms, unvested, void_reversed
from gainshare.capacity.models import Deployment
from gainshare.capacity.models.deployments import HAS_SERVED
from gainshare.ledger import services as ledger
from gainshare.ledger.models import Transfer

logger = logging.getLogger(__name__)

GRACE = timedelta(minutes=15)  # requests of a day may still be committed for so long after midnight
DAY = timedelta(days=1)


def settle_royalties() -> None:
    """Everything that is due. Each step is repeatable, and one that fails is logged and tried again by the next call."""
    now = timezone.now()
    _attempt("note deployments", note_deployments)
    _attempt("end terms", settle_terms)
    _attempt("void royalties", void_reversed)
    if is_stopped(Switch.AWARDS):
        return
    _attempt("pay royalties", lambda: pay_due(now))
    _attempt("vest royalties", lambda: vest_due(now))


def _attempt(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:
        logger.exception("could not %s", what)


def note_deployments(model: str = "") -> int:
    """Begin the terms of deployments that serve, of all models or of one; return the number that have terms now."""
    rows = Deployment.objects.filter(
        state__in=HAS_SERVED, is_first=False, is_rollback=False, serving_at__isnull=False
    )
    if model:
        rows = rows.filter(model=model)
    noted = set(RoyaltyTerm.objects.values_list("deployment", flat=True))
    missing = rows.exclude(pk__in=noted).exclude(lineage="").order_by("serving_at")
    return sum(bool(note_deployment(pk)) for pk in missing.values_list("pk", flat=True))


def pay_due(now: datetime) -> int:
    """Pay every day that is over and is not paid yet, the oldest first; return their number."""
    paid = 0
    for model in RoyaltyTerm.objects.order_by("model").values_list("model", flat=True).distinct():
        done = set(RoyaltyDay.objects.filter(model=model).values_list("day", flat=True))
        for day in _days(model, now):
            if day not in done and terms_of_day(model, datetime.combine(day, time(), UTC)).exists():
                pay_day(model=model, day=day)
                paid += 1
    return paid


def _days(model: str, now: datetime) -> list[date]:
    """The days that are over, from that of the model's first term to that of its last."""
    terms = RoyaltyTerm.objects.filter(model=model)
    first, last = terms.earliest("starts_at").starts_at, terms.latest("ends_at").ends_at
    end = min((now - GRACE).astimezone(UTC).date() - DAY, last.astimezone(UTC).date())
    begin = first.astimezone(UTC).date()
    return [begin + number * DAY for number in range((end - begin).days + 1)]


def vest_due(now: datetime) -> int:
    """Vest the royalties that were booked a reversal window ago, of gains that stand; return their number."""
    vested = 0
    ripe = set(
        Transfer.objects.filter(
            pk__in=[pk for pk, _ in unvested()], created_at__lte=now - REVERSAL_WINDOW
        ).values_list("pk", flat=True)
    )
    for transfer_id, submission_id in unvested():
        if transfer_id not in ripe:
            continue
        with transaction.atomic():
            submission = Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
            if submission.state != SubmissionState.REVERSED:
                ledger.vest_royalty(transfer_id=transfer_id)
                vested += 1
    return vested
