"""The next draft of a model's prices, by what its deployments save: every step of the arithmetic, and its publication.

A line's price is what is left of the reference price at the model's level, plus the royalties that run on it. When a
royalty ends, the next proposal is lower by it. The reference is the last version that was set by hand; it already has
in it whatever was deployed before it took effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from django.db import transaction

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from benchmarks.sharing.references import Reference
from benchmarks.sharing.royalties import shared_price
from benchmarks.sharing.savings import PRICED_LINES, Placed, level, remaining_ppm
from gainshare.accounts.models import User
from gainshare.gateway.prices.comparisons import reference_of
from gainshare.gateway.prices.device_cost import DeviceCost, device_costs
from gainshare.gateway.prices.gains import GainShare, begin_shares, gain_shares, savings_of
from gainshare.gateway.prices.references import reference_levels, saving_of
from gainshare.ledger.errors import LedgerError, Unpriced
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import (
    TERMS,
    PriceTable,
    active_price,
    earliest_start,
    publish_price,
    table_of,
)
from gainshare.ledger.services.treasury import require_maintainer

PRICES_OF_LINE: Mapping[str, tuple[str, ...]] = {
    PREFILL: ("fresh_input", "long_fresh_input"),
    DECODE: ("output", "long_output"),
    MEMORY: ("memory_tiers",),
}
"""The terms of a price that each line of a canary moves; all others stay as they are."""


@dataclass(frozen=True, slots=True)
class SavingStep:
    """One deployment's saving on a line: from one level to another, and of the reference price."""

    deployment: str
    tree: str
    level_before_log_ppm: int
    level_log_ppm: int
    saving_ppm: int


@dataclass(frozen=True, slots=True)
class PriceStep:
    """One term of the price: before all gains, as it is in force, and as proposed."""

    term: str
    reference: Any
    in_force: Any
    proposed: Any


@dataclass(frozen=True, slots=True)
class ProposedLine:
    """One line of a canary: what is left of its reference prices, and the royalties that are added while they run."""

    line: str
    savings: tuple[SavingStep, ...]
    remaining_ppm: int
    royalties: tuple[GainShare, ...]
    prices: tuple[PriceStep, ...]

    @property
    def royalties_ppm(self) -> int:
        return sum(each.royalty_ppm for each in self.royalties)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next draft of a model's prices. ``digest`` names it: what is published must be what was shown."""

    model: str
    in_force: PriceVersion
    table: PriceTable
    lines: tuple[ProposedLine, ...]
    derivation: Mapping[str, Any]
    costs: tuple[DeviceCost, ...]
    effective_at: datetime
    falls_again_at: datetime | None
    digest: str

    @property
    def changes(self) -> bool:
        return self.table != table_of(self.in_force)


def propose(*, model: str, now: datetime) -> Proposal:
    """The draft for `model`, with every share that is due. Raises LedgerError (404) for a model without a price.

    Publishes nothing.
    """
    in_force = _in_force(model, now)
    prices = reference_of(in_force)
    begin_shares(model)
    history = savings_of(model)
    reference = reference_levels(in_force, history)
    begun = [each for each in gain_shares(model) if each.starts_at >= reference.since]
    shares = [share for each in begun if (share := _at_reference(each, history, reference)).saving_ppm]
    lines = tuple(_line(line, history, shares, reference, prices, in_force, now) for line in PRICED_LINES)
    proposed = {step.term: step.proposed for line in lines for step in line.prices}
    table = table_of(replace(prices, **proposed))
    derivation = _derivation(prices, reference.since, lines, shares, history, now)
    running = [each.ends_at for line in lines for each in line.royalties]
    return Proposal(
        model=model,
        in_force=in_force,
        table=table,
        lines=lines,
        derivation=derivation,
        costs=device_costs(model),
        effective_at=earliest_start(model=model, table=table, now=now),
        falls_again_at=min(running, default=None),
        digest=_digest(model, table, derivation),
    )


def publish_proposal(*, model: str, digest: str, actor: User, now: datetime) -> PriceVersion:
    """Publish the proposal with this digest, with its derivation. Raises MaintainerOnly and LedgerError.

    Its code is `proposal_changed` where the proposal is another one by now, `nothing_to_publish` where it is the price in force.
    """
    require_maintainer(actor)
    with transaction.atomic():
        found = propose(model=model, now=now)
        if digest != found.digest:
            raise LedgerError(
                "The proposal has changed since it was shown: a deployment, a royalty or the price did. Look at the "
                "new one, then publish that.",
                code="proposal_changed",
                status=409,
            )
        if not found.changes:
            raise LedgerError(
                "The proposal is the price in force, so there is nothing to publish.",
                code="nothing_to_publish",
                status=409,
            )
        terms = {name: getattr(found.table, name) for name in TERMS}
        return publish_price(model=model, actor=actor, derivation=found.derivation, **terms)


def _in_force(model: str, now: datetime) -> PriceVersion:
    try:
        return active_price(model, now)
    except Unpriced:
        raise LedgerError(
            "This model has no price yet. Publish its first one by hand; what deployments save lowers that.",
            code="not_found",
            status=404,
        ) from None


def _at_reference(share: GainShare, history: Sequence[Placed], reference: Reference) -> GainShare:
    """The share in millionths of the reference price, which may have earlier gains in it."""
    saving = saving_of(history, str(share.deployment), share.line)
    return replace(share, saving_ppm=reference.credit_ppm(saving, share.saving_ppm))


def _line(
    line: str,
    history: Sequence[Placed],
    shares: Sequence[GainShare],
    reference: Reference,
    prices: PriceTable,
    in_force: PriceVersion,
    now: datetime,
) -> ProposedLine:
    after = [each for each in history if each.served.at >= reference.since and each.served.counts_at(now)]
    counting = {each.served.id for each in after}
    left = remaining_ppm(level(after, line, now) - reference.levels[line])
    royalties = tuple(
        each
        for each in shares
        if each.line == line and each.runs_at(now) and str(each.deployment) in counting
    )
    ppm = [each.royalty_ppm for each in royalties]
    steps = tuple(
        PriceStep(
            term,
            getattr(prices, term),
            getattr(in_force, term),
            _moved(getattr(prices, term), left, ppm),
        )
        for term in PRICES_OF_LINE[line]
    )
    return ProposedLine(line, tuple(_steps(line, after, reference)), left, royalties, steps)


def _moved(term: Any, left: int, royalties_ppm: Sequence[int]) -> Any:
    """A price, or the tiers of memory with each tier's price."""
    if isinstance(term, int):
        return shared_price(term, left, royalties_ppm)
    return [[above, shared_price(price, left, royalties_ppm)] for above, price in term]


def _steps(line: str, history: Sequence[Placed], reference: Reference) -> list[SavingStep]:
    return [
        SavingStep(
            each.served.id,
            each.served.tree,
            saving.level_before_log_ppm,
            saving.level_log_ppm,
            reference.saving_ppm(saving),
        )
        for each in history
        if (saving := each.savings.get(line)) is not None
    ]


def _derivation(
    prices: PriceTable,
    since: datetime,
    lines: Sequence[ProposedLine],
    shares: Sequence[GainShare],
    history: Sequence[Placed],
    now: datetime,
) -> dict[str, Any]:
    counting = {each.served.id for each in history if each.served.counts_at(now)}
    gains: dict[str, dict[str, Any]] = {}
    for share in shares:
        if str(share.deployment) not in counting or share.is_reversed:
            continue
        row = gains.setdefault(
            str(share.submission),
            {"submission": str(share.submission), "gain": share.gain, "person": share.person, "lines": {}},
        )
        row["lines"][share.line] = row["lines"].get(share.line, 0) + share.saving_ppm
    return {
        "reference": asdict(prices),
        "since": since.isoformat(),
        "lines": [
            {
                "line": line.line,
                "remaining_ppm": line.remaining_ppm,
                "savings": [asdict(step) for step in line.savings],
                "royalties": [_royalty(each) for each in line.royalties],
            }
            for line in lines
        ],
        "gains": list(gains.values()),
    }


def _royalty(share: GainShare) -> dict[str, Any]:
    return {
        "submission": str(share.submission),
        "gain": share.gain,
        "person": share.person,
        "saving_ppm": share.saving_ppm,
        "share_ppm": share.share_ppm,
        "royalty_ppm": share.royalty_ppm,
        "ends_at": share.ends_at.isoformat(),
    }


def _digest(model: str, table: PriceTable, derivation: Mapping[str, Any]) -> str:
    document = {"model": model, "table": asdict(table), "derivation": derivation}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
