"""New prices of gains that were priced against a base that proved slow, and the credits that came back for them."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from bounty.models.awards import Award
from bounty.models.runs import Run
from bounty.models.submissions import Submission
from bounty.models.trees import StoredTree


class RepricingState(models.TextChoices):
    """State of a new price."""

    WAITING = "waiting", "Waiting"  # for those before it in the series
    MEASURING = "measuring", "Measuring"  # its gain is measured without the slow tree's change
    PAID = "paid", "Paid"  # it is worth more, and the difference was paid
    UNCHANGED = "unchanged", "Unchanged"  # its award stays as it was; `outcome` says why


OPEN_REPRICING_STATES = (RepricingState.WAITING, RepricingState.MEASURING)


class Repricing(models.Model):
    """One gain that was booked after a slow base's award in its series. They are priced one after another, by `place`.

    The credits that came back are reserved for the first open one, which passes on what it leaves.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slow_award = models.ForeignKey(
        Award, on_delete=models.PROTECT, related_name="repricings", help_text="It was taken back."
    )
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="repricings")
    place = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=10, choices=RepricingState.choices, default=RepricingState.WAITING)
    priced_by = models.ForeignKey(
        Run,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Its price before, if it had one.",
    )
    candidate_tree = models.ForeignKey(
        StoredTree,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The gain without the slow tree's change; the next one is measured against it.",
    )
    run = models.OneToOneField(
        Run,
        on_delete=models.PROTECT,
        null=True,
        related_name="repricing",
        help_text="Its new price; null where the submission follows the best tree and is priced by that.",
    )
    reservation_id = models.UUIDField(
        unique=True, null=True, help_text="Credits that came back, held for it."
    )
    reserved_microcredits = models.BigIntegerField(default=0)
    award = models.OneToOneField(
        Award, on_delete=models.PROTECT, null=True, related_name="repricing", help_text="The difference."
    )
    outcome = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["slow_award", "place"]
        constraints = [
            models.UniqueConstraint(fields=["slow_award", "submission"], name="repriced_once"),
            models.UniqueConstraint(fields=["slow_award", "place"], name="repricing_place_is_unique"),
            models.UniqueConstraint(
                fields=["slow_award"],
                condition=Q(state=RepricingState.MEASURING),
                name="one_repricing_at_a_time",
            ),
            models.CheckConstraint(
                condition=Q(state__in=RepricingState.values), name="repricing_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state=RepricingState.PAID, award__isnull=False)
                | (~Q(state=RepricingState.PAID) & Q(award__isnull=True)),
                name="paid_repricing_has_its_award",
            ),
            models.CheckConstraint(
                condition=Q(state__in=OPEN_REPRICING_STATES, ended_at__isnull=True)
                | (~Q(state__in=OPEN_REPRICING_STATES) & Q(ended_at__isnull=False) & ~Q(outcome="")),
                name="ended_repricing_says_why",
            ),
            models.CheckConstraint(
                condition=Q(reservation_id__isnull=True, reserved_microcredits=0)
                | Q(reservation_id__isnull=False, reserved_microcredits__gt=0),
                name="repricing_holds_what_it_reserved",
            ),
        ]

    def __str__(self) -> str:
        return f"new price of {self.submission_id} ({self.state})"
