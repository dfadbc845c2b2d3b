"""Price book: immutable versions of each model's prices. A model without a price is refused."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.accounts.once import claim
from gainshare.ledger.errors import (
    IdConflict,
    InvalidAmount,
    LedgerError,
    RetroactivePrice,
    RiseTooSoon,
    Unpriced,
)
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.pricing import Prices, PriceTable, check_terms, rises
from gainshare.ledger.services.posting import MAX_MICROCREDITS
from gainshare.ledger.services.treasury import require_maintainer

CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far in the past a new version may take effect."""

RISE_NOTICE = timedelta(hours=24)
"""How long before it takes effect a version is published that can make any bill dearer."""

TERMS = tuple(field.name for field in fields(PriceTable))

NAMESPACE = UUID("6c9e9f0e-7f0a-4d39-9f64-0a4a53a5b4c1")

__all__ = ["PriceTable", "PriceVersion", "active_price", "current_prices", "publish_price"]


def active_price(model: str, at: datetime) -> PriceVersion:
    """The version in force for ``model`` at the time ``at``. Raises Unpriced."""
    found = (
        PriceVersion.objects.filter(model=model, effective_at__lte=at)
        .order_by("-effective_at", "-pk")
        .first()
    )
    if found is None:
        raise Unpriced(
            f"The model {model} has no price yet, so it cannot be used. Ask a maintainer to publish a price."
        )
    return found


def current_prices(at: datetime) -> list[PriceVersion]:
    """The version in force for each priced model at the time ``at``, by the models' names."""
    in_force = PriceVersion.objects.filter(effective_at__lte=at)
    return list(in_force.order_by("model", "-effective_at", "-pk").distinct("model"))


def announced_prices(at: datetime) -> list[PriceVersion]:
    """The versions that take effect after the time ``at``, the next first."""
    return list(PriceVersion.objects.filter(effective_at__gt=at).order_by("effective_at", "pk"))


def publish_price(
    *,
    model: str,
    effective_at: datetime | None = None,
    actor: User | None,
    derivation: Any = None,
    **terms: Any,
) -> PriceVersion:
    """Publish a price version with the terms of a PriceTable. ``actor`` None is the platform.

    ``derivation`` is a mapping that is kept with the version: of a proposal it has the reference prices and the gains.

    Without a time a fall takes effect at once and a rise after RISE_NOTICE. A model's first version may start at any
    time; later ones may not start in the past. A version that can make any bill dearer than the one before it needs
    RISE_NOTICE, and so does the version after it, counted from its own publication. Publishing the same version again
    returns it. Raises MaintainerOnly, InvalidAmount, RetroactivePrice, RiseTooSoon, and IdConflict (other prices at
    the same time).
    """
    require_maintainer(actor)
    if not model or len(model) > 120:
        raise LedgerError("A model's name is needed, of at most 120 characters.", code="invalid", status=400)
    table = PriceTable(**terms)
    try:
        check_terms(table, most=MAX_MICROCREDITS)
    except ValueError as error:
        raise InvalidAmount(str(error)) from None
    with transaction.atomic():
        claim(uuid5(NAMESPACE, model))
        now = _publication_time()
        if effective_at is None:
            effective_at = earliest_start(model=model, table=table, now=now)
        same_time = PriceVersion.objects.filter(model=model, effective_at=effective_at).first()
        if same_time is not None:
            if table_of(same_time) != as_stored(table):
                raise IdConflict(f"{model} already has another price from that time on. Choose another time.")
            return same_time
        if PriceVersion.objects.filter(model=model).exists() and effective_at < now - CLOCK_TOLERANCE:
            raise RetroactivePrice(
                "A new price cannot take effect in the past. Choose a later time, or give no time: a lower price "
                "then takes effect at once."
            )
        _require_notice(model, table, effective_at, now)
        return PriceVersion.objects.create(
            model=model,
            effective_at=effective_at,
            actor=actor,
            created_at=now,
            derivation=dict(derivation or {}),
            **asdict(as_stored(table)),
        )


def _publication_time() -> datetime:
    """Now, but not before any version's publication: a clock that stepped back shortens no notice."""
    newest = PriceVersion.objects.aggregate(at=Max("created_at"))["at"]
    now = timezone.now()
    return now if newest is None else max(now, newest)


def earliest_start(*, model: str, table: Prices, now: datetime) -> datetime:
    """When ``table`` can take effect if it is published now: at once, or after RISE_NOTICE if it is a rise."""
    before = _before(model, now)
    return now + RISE_NOTICE if before is not None and rises(table, before) else now


def _require_notice(model: str, table: PriceTable, effective_at: datetime, now: datetime) -> None:
    """Raises RiseTooSoon if the new version, or the one that will follow it, is a rise without its notice.

    The version that follows is compared again, because a lower price put before it makes a rise of it.
    """
    before = _before(model, effective_at)
    if before is not None and effective_at < now + RISE_NOTICE and (dearer := rises(table, before)):
        raise RiseTooSoon(
            f"This price is higher than the one before it ({in_words(dearer)}), so it takes effect at the earliest 24 "
            f"hours after it is published: {now + RISE_NOTICE:%Y-%m-%d %H:%M:%S} UTC. Choose that time or a later "
            "one, or give no time."
        )
    after = (
        PriceVersion.objects.filter(model=model, effective_at__gt=effective_at)
        .order_by("effective_at")
        .first()
    )
    if (
        after is not None
        and after.effective_at < after.created_at + RISE_NOTICE
        and (dearer := rises(after, table))
    ):
        raise RiseTooSoon(
            f"The price that is already published for {after.effective_at:%Y-%m-%d %H:%M:%S} UTC would then be a rise "
            f"({in_words(dearer)}) with less than 24 hours' notice. Choose a time after it."
        )


def _before(model: str, at: datetime) -> PriceVersion | None:
    """The version in force just before ``at``."""
    earlier = PriceVersion.objects.filter(model=model, effective_at__lte=at)
    return earlier.order_by("-effective_at", "-pk").first()


def in_words(terms: Sequence[str]) -> str:
    """`fresh_input`, `output` as `fresh input, output`."""
    return ", ".join(term.replace("_", " ").removesuffix(" ppm") for term in terms)


def table_of(version: Prices) -> PriceTable:
    """The terms of a version, without its model and times."""
    return as_stored(PriceTable(**{name: getattr(version, name) for name in TERMS}))


def as_stored(table: PriceTable) -> PriceTable:
    """The table with windows and tiers as the lists that the database returns."""
    return replace(
        table,
        off_peak_windows=sorted(list(window) for window in table.off_peak_windows),
        memory_tiers=[list(tier) for tier in table.memory_tiers],
    )
