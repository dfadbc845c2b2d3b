"""Price book: immutable versions of each model's prices. A model without a price is refused."""

from datetime import datetime, timedelta
from uuid import UUID, uuid5

from django.db import transaction
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.accounts.once import claim
from gainshare.ledger.errors import IdConflict, InvalidAmount, LedgerError, RetroactivePrice, Unpriced
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.services.posting import MAX_MICROCREDITS
from gainshare.ledger.services.treasury import require_maintainer

CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far in the past a new version may take effect."""

NAMESPACE = UUID("6c9e9f0e-7f0a-4d39-9f64-0a4a53a5b4c1")

__all__ = ["PriceVersion", "active_price", "current_prices", "publish_price"]


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


def publish_price(
    *,
    model: str,
    effective_at: datetime,
    cached_input: int,
    fresh_input: int,
    output: int,
    actor: User | None,
) -> PriceVersion:
    """Publish a price version, in micro-credits per million tokens. ``actor`` None is the platform.

    A model's first version may start at any time; later ones may not start in the past. Publishing the same
    version again returns it. Raises MaintainerOnly, InvalidAmount, RetroactivePrice, and IdConflict (other
    prices at the same time).
    """
    require_maintainer(actor)
    if not model or len(model) > 120:
        raise LedgerError("A model's name is needed, of at most 120 characters.", code="invalid", status=400)
    prices = (cached_input, fresh_input, output)
    if any(type(price) is not int or not 0 <= price <= MAX_MICROCREDITS for price in prices):
        raise InvalidAmount("Prices must be non-negative whole micro-credits per million tokens.")
    with transaction.atomic():
        claim(uuid5(NAMESPACE, model))
        same_time = PriceVersion.objects.filter(model=model, effective_at=effective_at).first()
        if same_time is not None:
            if (same_time.cached_input, same_time.fresh_input, same_time.output) != prices:
                raise IdConflict(f"{model} already has another price from that time on. Choose another time.")
            return same_time
        has_versions = PriceVersion.objects.filter(model=model).exists()
        if has_versions and effective_at < timezone.now() - CLOCK_TOLERANCE:
            raise RetroactivePrice(
                "A new price cannot take effect in the past. Choose a later time, or give no time: the price then takes effect at once."
            )
        return PriceVersion.objects.create(
            model=model,
            effective_at=effective_at,
            cached_input=cached_input,
            fresh_input=fresh_input,
            output=output,
            actor=actor,
        )
