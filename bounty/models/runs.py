"""Runs: one measurement of one candidate against one base, and its log.

A run is judged by at most one runner at a time (the lease) and ends with at most one verdict (`evidence.py`).
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from bounty.models.reproductions import Reproduction
from bounty.models.runners import Runner
from bounty.models.submissions import Submission
from bounty.models.trees import StoredTree


class RunKind(models.TextChoices):
    """Purpose of a run."""

    GATE = "gate", "Gate"  # tests whether there is a gain
    CONFIRMATION = "confirmation", "Confirmation"  # measures the gain's lower bound, which prices the award
    # A price once more, against another tree that a gain has to beat: the lowest bound counts
    COMPARISON = "comparison", "Comparison"
    GUARD = "guard", "Guard rails"  # checks that nothing else became worse; every priced gain needs one
    # A confirmation once more: at random while it is reviewed, against a best tree that moved, or after a dispute
    RECHECK = "recheck", "Re-measurement"
    REPRODUCTION = "reproduction", "Reproduction"  # tests whether a reproduction shows its bug
    FIX = "fix", "Fix"  # tests whether a patch fixes the bug and keeps all other outputs right
    AA = "aa", "A/A"  # the same tree on both sides, which measures the runner's noise
    # A merged tree against the tree before it: whether it still has what was paid for it
    TIP = "tip", "Check of a merged tree"


class RunState(models.TextChoices):
    """State of a run."""

    QUEUED = "queued", "Queued"  # waits for a runner
    LEASED = "leased", "Leased"  # a runner has taken it
    PREPARING = "preparing", "Preparing"  # trees are fetched and built
    GATING = "gating", "Gating"  # pairs are measured, with looks
    MEASURING = "measuring", "Measuring"  # a fixed number of pairs is measured
    FINISHED = "finished", "Finished"  # has its verdict
    LOST = "lost", "Lost"  # the runner disappeared: queued again if it is still needed


OPEN_RUN_STATES = (RunState.LEASED, RunState.PREPARING, RunState.GATING, RunState.MEASURING)
PRICING_KINDS = (RunKind.CONFIRMATION, RunKind.RECHECK)  # their lower bound prices an award


class Run(models.Model):
    """One run. ``attempt`` counts leases; ``nonce`` binds the evidence to this run and attempt."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, null=True, related_name="runs")
    kind = models.CharField(max_length=12, choices=RunKind.choices)
    sequence = models.PositiveSmallIntegerField(default=1)
    suite = models.CharField(max_length=60)
    preset = models.CharField(max_length=60)
    hardware = models.SlugField(max_length=60)
    base_tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    candidate_tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    after = models.OneToOneField(
        "self",
        on_delete=models.PROTECT,
        null=True,
        related_name="guard",
        help_text="Of a guard run: the run whose price it guards.",
    )
    reproduction = models.ForeignKey(
        Reproduction,
        on_delete=models.PROTECT,
        null=True,
        related_name="runs",
        help_text="Of a bug's runs: what is tried.",
    )
    old_award = models.ForeignKey(
        "bounty.Award",
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Of a pricing run or comparison: the award that was paid for its base, whose old tree is timed as well.",
    )
    avoid_host = models.CharField(
        max_length=120, blank=True, help_text="Measured there before: another host is preferred."
    )
    nonce = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=12, choices=RunState.choices, default=RunState.QUEUED)
    attempt = models.PositiveSmallIntegerField(default=0)
    lease = models.UUIDField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    runner = models.ForeignKey(Runner, on_delete=models.PROTECT, null=True, related_name="runs")
    bound_to = models.ForeignKey(
        Runner,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Only this runner may take it.",
    )
    forgiven = models.PositiveSmallIntegerField(
        default=0, help_text="Attempts that the platform itself ended: they do not count."
    )
    continues = models.JSONField(
        default=list, blank=True, help_text="Digests of earlier pairs from which this attempt continues."
    )
    earlier_confirmations = models.JSONField(
        null=True,
        blank=True,
        help_text="Of a pricing run: the person's confirmations of other candidates against its base, as its evidence states them.",
    )
    commitment = models.CharField(max_length=64, blank=True, help_text="Of this attempt's secrets.")
    was_sampled = models.BooleanField(default=False, help_text="A first sample may have been taken.")
    let_by = models.PositiveSmallIntegerField(
        default=0, help_text="Of the first run of a new account: runs that started before it out of turn."
    )
    let_by_since = models.DateTimeField(null=True, blank=True, help_text="When the first of these started.")
    pairs_done = models.PositiveIntegerField(default=0)
    pairs_max = models.PositiveIntegerField(default=0)
    log_chars = models.PositiveIntegerField(default=0)
    log_lease_chars = models.PositiveIntegerField(default=0, help_text="Received from the current lease.")
    queued_at = models.DateTimeField(auto_now_add=True)
    woken_at = models.DateTimeField(null=True, blank=True)
    leased_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["queued_at"]
        indexes = [models.Index(fields=["state", "hardware", "queued_at"])]
        constraints = [
            models.UniqueConstraint(fields=["submission", "kind", "sequence"], name="run_is_unique"),
            models.UniqueConstraint(
                fields=["submission"],
                condition=Q(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]),
                name="one_unfinished_run_per_submission",
            ),
            models.UniqueConstraint(
                fields=["runner"], condition=Q(state__in=OPEN_RUN_STATES), name="one_open_lease_per_runner"
            ),
            models.UniqueConstraint(
                fields=["bound_to", "suite", "preset"],
                condition=Q(kind=RunKind.AA, state__in=[RunState.QUEUED, *OPEN_RUN_STATES]),
                name="one_unfinished_calibration",
            ),
            models.CheckConstraint(condition=Q(forgiven__lte=F("attempt")), name="run_forgives_attempts"),
            models.CheckConstraint(condition=Q(state__in=RunState.values), name="run_state_known"),
            models.CheckConstraint(condition=Q(kind__in=RunKind.values), name="run_kind_known"),
            models.CheckConstraint(
                condition=Q(lease__isnull=False, lease_expires_at__isnull=False, runner__isnull=False)
                | ~Q(state__in=OPEN_RUN_STATES),
                name="open_run_has_a_lease",
            ),
            models.CheckConstraint(
                condition=~Q(kind=RunKind.AA) | Q(submission__isnull=True, base_tree=F("candidate_tree")),
                name="aa_run_measures_one_tree",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=[RunKind.AA, RunKind.REPRODUCTION, RunKind.TIP])
                | Q(submission__isnull=False),
                name="run_has_its_submission",
            ),
            models.CheckConstraint(
                condition=Q(
                    kind=RunKind.REPRODUCTION,
                    reproduction__isnull=False,
                    submission__isnull=True,
                    base_tree=F("candidate_tree"),
                )
                | Q(kind=RunKind.FIX, reproduction__isnull=False)
                | (~Q(kind__in=[RunKind.REPRODUCTION, RunKind.FIX]) & Q(reproduction__isnull=True)),
                name="bug_run_has_its_reproduction",
            ),
            models.UniqueConstraint(
                fields=["reproduction"],
                condition=Q(kind=RunKind.REPRODUCTION, state__in=[RunState.QUEUED, *OPEN_RUN_STATES]),
                name="one_unfinished_run_per_reproduction",
            ),
            models.CheckConstraint(
                condition=Q(kind=RunKind.GUARD, after__isnull=False)
                | (~Q(kind=RunKind.GUARD) & Q(after__isnull=True)),
                name="guard_follows_a_price",
            ),
            models.CheckConstraint(
                condition=Q(old_award__isnull=True) | Q(kind__in=[*PRICING_KINDS, RunKind.COMPARISON]),
                name="old_tree_belongs_to_a_price",
            ),
        ]

    @property
    def attempts_left(self) -> int:
        """Number of leases that it may still have. Leases that the platform itself ended do not count."""
        return int(settings.RUN_MAX_ATTEMPTS) - (self.attempt - self.forgiven)

    def __str__(self) -> str:
        return f"{self.kind} run {self.pk} ({self.state})"

    @property
    def old(self) -> dict[str, Any] | None:
        """The old tree and what was paid for base, as the evidence names them; direct pairs belong to each such run."""
        award = self.old_award
        if award is None or award.confirmation_run is None:
            return None
        tree = award.confirmation_run.base_tree_id
        return {"tree": tree, "paid_log_ppm": award.log_ppm_bound, "direct": True}

    @property
    def judged_as(self) -> str:
        """The judge's kind for this run: re-measurements, comparisons and checks are measured as confirmations."""
        is_price = self.kind in (RunKind.RECHECK, RunKind.COMPARISON, RunKind.TIP)
        return RunKind.CONFIRMATION.value if is_price else self.kind


class LogChunk(models.Model):
    """A part of a run's log. ``start`` is the position of its first character in the whole log."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="log_chunks")
    start = models.PositiveIntegerField()
    text = models.TextField()
    is_sealed = models.BooleanField(default=True)  # what code printed and what was found, until it is decided
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run", "start"]
        constraints = [models.UniqueConstraint(fields=["run", "start"], name="log_chunk_place_is_unique")]
