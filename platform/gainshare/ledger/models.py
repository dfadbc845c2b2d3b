"""The ledger's tables: accounts, transfers, entries, holds, reversals, prices and seals. All money is micro-credits.

Migration 0002 puts the invariants into the database: the allowed flows, two entries that sum to zero for each
posted transfer, balances that only entries move, states that change once, and append-only rows.
:mod:`gainshare.ledger.audit` checks them again.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from gainshare.ledger.kinds import (
    BELOW_ZERO,
    OWNED,
    AccountKind,
    HoldState,
    TransferKind,
    TransferState,
)


class Account(models.Model):
    """An account of credits. Only the database's triggers move the two balances.

    ``posted_microcredits`` is the sum of its entries, ``pending_microcredits`` the sum of the pending transfers
    that would leave it. The last four fields describe a wallet lot. Lots are spent by priority (lowest
    first), expiry (soonest first) and age.
    """

    kind = models.CharField(max_length=16, choices=AccountKind.choices)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="ledger_accounts"
    )
    reference = models.CharField(max_length=200, blank=True)
    posted_microcredits = models.BigIntegerField(default=0)
    pending_microcredits = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)
    priority = models.IntegerField(default=100)
    expires_at = models.DateTimeField(null=True)
    source = models.CharField(max_length=40, blank=True)
    is_transferable = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "reference"], name="account_reference_unique"),
            models.CheckConstraint(condition=Q(kind__in=AccountKind.values), name="account_kind_known"),
            models.CheckConstraint(
                condition=Q(kind__in=OWNED, owner__isnull=False)
                | (~Q(kind__in=OWNED) & Q(owner__isnull=True)),
                name="account_owner_by_kind",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=BELOW_ZERO, posted_microcredits__lte=0, pending_microcredits=0)
                | (
                    ~Q(kind__in=BELOW_ZERO)
                    & Q(pending_microcredits__gte=0, posted_microcredits__gte=F("pending_microcredits"))
                ),
                name="account_never_overdrawn",
            ),
        ]
        indexes = [
            models.Index(
                fields=["owner"],
                condition=Q(kind=AccountKind.WALLET_LOT, posted_microcredits__gt=0),
                name="account_lots_with_credits",
            ),
            models.Index(
                fields=["expires_at"],
                condition=Q(kind=AccountKind.WALLET_LOT, posted_microcredits__gt=0),
                name="account_lots_to_expire",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}" if self.reference else self.kind

    @property
    def available_microcredits(self) -> int:
        """Micro-credits that are posted and not reserved."""
        return self.posted_microcredits - self.pending_microcredits

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class Hold(models.Model):
    """Credits of a user that are reserved over one or more lots until the usage is known.

    Its legs are pending transfers; a leg's ``position`` is the order in which the lots are spent.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="holds")
    amount = models.BigIntegerField(help_text="Micro-credits set aside.")
    settled = models.BigIntegerField(default=0, help_text="Micro-credits paid in the end.")
    state = models.CharField(max_length=8, choices=HoldState.choices, default=HoldState.OPEN)
    reference = models.CharField(max_length=200, blank=True)
    memo = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=HoldState.values), name="hold_state_known"),
            models.CheckConstraint(
                condition=Q(amount__gte=0, settled__gte=0, settled__lte=F("amount")),
                name="hold_settles_within",
            ),
            models.CheckConstraint(
                condition=Q(state=HoldState.SETTLED) | Q(settled=0), name="hold_pays_only_when_settled"
            ),
            models.CheckConstraint(
                condition=Q(state=HoldState.OPEN, resolved_at__isnull=True)
                | (~Q(state=HoldState.OPEN) & Q(resolved_at__isnull=False)),
                name="hold_resolved_has_time",
            ),
        ]
        indexes = [
            models.Index(
                fields=["expires_at"], condition=Q(state=HoldState.OPEN), name="hold_open_by_expiry"
            ),
        ]

    def __str__(self) -> str:
        return f"hold {self.id} ({self.state})"


class Transfer(models.Model):
    """A transfer between two accounts, under an id that its caller made.

    ``terms`` are the caller's arguments: the same id with the same terms is the same posting, with other
    terms a conflict. ``amount_microcredits`` is the requested amount, ``posted_amount`` the paid one.
    """

    id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=16, choices=TransferKind.choices)
    state = models.CharField(max_length=8, choices=TransferState.choices)
    from_account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="outgoing")
    to_account = models.ForeignKey(Account, on_delete=models.PROTECT, null=True, related_name="incoming")
    amount_microcredits = models.BigIntegerField()
    posted_amount = models.BigIntegerField(null=True)
    hold = models.ForeignKey(Hold, on_delete=models.PROTECT, null=True, related_name="legs")
    position = models.PositiveSmallIntegerField(null=True)
    terms = models.JSONField(default=dict)
    memo = models.CharField(max_length=300, blank=True)
    reference = models.CharField(max_length=200, blank=True, db_index=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=TransferKind.values), name="transfer_kind_known"),
            models.CheckConstraint(condition=Q(state__in=TransferState.values), name="transfer_state_known"),
            models.CheckConstraint(condition=Q(amount_microcredits__gt=0), name="transfer_amount_positive"),
            models.CheckConstraint(
                condition=Q(
                    state=TransferState.POSTED,
                    posted_amount__isnull=False,
                    posted_amount__gt=0,
                    posted_amount__lte=F("amount_microcredits"),
                )
                | (~Q(state=TransferState.POSTED) & Q(posted_amount__isnull=True)),
                name="transfer_posts_within",
            ),
            models.CheckConstraint(
                condition=Q(state=TransferState.PENDING, resolved_at__isnull=True)
                | (~Q(state=TransferState.PENDING) & Q(resolved_at__isnull=False)),
                name="transfer_resolved_has_time",
            ),
            models.CheckConstraint(
                condition=Q(kind=TransferKind.RESERVATION, to_account__isnull=True)
                | (~Q(kind=TransferKind.RESERVATION) & Q(to_account__isnull=False)),
                name="transfer_only_reservation_is_open_ended",
            ),
            models.CheckConstraint(
                condition=~Q(kind=TransferKind.RESERVATION, state=TransferState.POSTED),
                name="transfer_reservation_never_posts",
            ),
            models.CheckConstraint(
                condition=Q(kind=TransferKind.USAGE, hold__isnull=False, position__isnull=False)
                | (~Q(kind=TransferKind.USAGE) & Q(hold__isnull=True, position__isnull=True)),
                name="transfer_usage_is_a_leg",
            ),
            models.UniqueConstraint(fields=["hold", "position"], name="transfer_leg_position_unique"),
        ]
        indexes = [
            models.Index(
                fields=["from_account"],
                condition=Q(state=TransferState.PENDING),
                name="transfer_pending_by_payer",
            ),
            models.Index(
                fields=["to_account"],
                condition=Q(state=TransferState.PENDING),
                name="transfer_pending_by_payee",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} ({self.state})"


class Entry(models.Model):
    """One side of a posted transfer: below zero where the money leaves, above zero where it arrives."""

    transfer = models.ForeignKey(Transfer, on_delete=models.PROTECT, related_name="entries")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="entries")
    amount = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "entries"
        constraints = [
            models.UniqueConstraint(fields=["transfer", "account"], name="entry_once_per_account"),
            models.CheckConstraint(condition=~Q(amount=0), name="entry_moves_something"),
        ]

    def __str__(self) -> str:
        return f"{self.amount:+d} on account {self.account_id}"


class Reversal(models.Model):
    """An award taken back: from escrow while unvested, else from the unspent lot, the rest as a receivable."""

    id = models.UUIDField(primary_key=True)
    award = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="reversal")
    from_escrow = models.BigIntegerField()
    from_lot = models.BigIntegerField()
    receivable = models.BigIntegerField()
    reason = models.CharField(max_length=300)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(from_escrow__gte=0, from_lot__gte=0, receivable__gte=0),
                name="reversal_parts_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"reversal of {self.award_id}"


class PriceVersion(models.Model):
    """Prices of a model from ``effective_at`` on. Immutable; ``created_at`` is when it was published.

    Token prices are micro-credits per million tokens. The terms after ``output`` are those of
    :class:`gainshare.ledger.pricing.PriceTable`; by default they change nothing.
    """

    model = models.CharField(max_length=120)
    effective_at = models.DateTimeField()
    cached_input = models.BigIntegerField()
    fresh_input = models.BigIntegerField()
    output = models.BigIntegerField()
    long_above = models.BigIntegerField(
        default=0, help_text="Tokens of prompt and answer above which the surcharges are added."
    )
    long_cached_input = models.BigIntegerField(default=0)
    long_fresh_input = models.BigIntegerField(default=0)
    long_output = models.BigIntegerField(default=0)
    off_peak_windows = models.JSONField(
        default=list, blank=True, help_text="[first hour, hour after the last, factor in millionths], in UTC."
    )
    memory_tiers = models.JSONField(
        default=list, blank=True, help_text="[byte-milliseconds, micro-credits per GB-second above them]."
    )
    memory_share_ppm = models.PositiveIntegerField(
        default=0, help_text="Most that memory costs, in millionths of the token lines."
    )
    derivation = models.JSONField(
        default=dict,
        blank=True,
        help_text="Where the prices come from: reference prices, and the gains that lowered them; empty: set by hand.",
    )
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["model", "-effective_at"]
        constraints = [
            models.UniqueConstraint(fields=["model", "effective_at"], name="price_once_per_time"),
            models.CheckConstraint(
                condition=Q(cached_input__gte=0, fresh_input__gte=0, output__gte=0), name="price_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(
                    long_above__gte=0, long_cached_input__gte=0, long_fresh_input__gte=0, long_output__gte=0
                )
                & Q(memory_share_ppm__gte=0, memory_share_ppm__lte=1_000_000),
                name="price_terms_in_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.effective_at:%Y-%m-%d %H:%M}"


class Seal(models.Model):
    """A link of the hash chain: its entries, and the hash over the previous link and them."""

    entry_ids = ArrayField(models.BigIntegerField())
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64, unique=True)
    sealed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["previous_hash"], name="seal_chain_never_forks"),
        ]

    def __str__(self) -> str:
        return f"seal {self.pk}: {len(self.entry_ids)} entries"


class Unsealed(models.Model):
    """An entry that waits for its seal; a database trigger adds it when the entry is written."""

    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, primary_key=True)

    class Meta:
        verbose_name_plural = "unsealed"

    def __str__(self) -> str:
        return f"entry {self.entry_id}"
