"""Evidence and verdicts: append-only (database triggers refuse UPDATE and DELETE)."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from benchmarks.judging.verdicts import VerdictKind, bound_side
from bounty.models.runners import Runner
from bounty.models.runs import Run
from bounty.models.submissions import VERDICT_CHOICES


class Evidence(models.Model):
    """Sealed document of a run. Its bytes are a blob; ``digest`` is the digest that the document names."""

    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="evidence")
    digest = models.CharField(max_length=80, unique=True)
    blob = models.CharField(max_length=64)
    size_bytes = models.PositiveIntegerField()
    runner = models.ForeignKey(Runner, on_delete=models.PROTECT, related_name="+")
    key_id = models.CharField(max_length=16)
    sandbox_level = models.CharField(max_length=40)
    is_award_eligible = models.BooleanField()
    samples = models.JSONField(default=list, help_text="Per pair: index, control, log ratio. For plots only.")
    trials = models.JSONField(default=list, help_text="Of a bug's runs, as they stand in the document.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "evidence"

    def __str__(self) -> str:
        return self.digest


class RunVerdict(models.Model):
    """Verdict of a run. Only an infrastructure error has no evidence."""

    run = models.OneToOneField(Run, on_delete=models.PROTECT, primary_key=True, related_name="verdict")
    kind = models.CharField(max_length=24, choices=VERDICT_CHOICES)
    reason = models.TextField()
    log_ppm_estimate = models.BigIntegerField(null=True)
    log_ppm_bound = models.BigIntegerField(null=True)
    pairs = models.PositiveIntegerField(default=0)
    evidence = models.OneToOneField(Evidence, on_delete=models.PROTECT, null=True, related_name="verdict")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=[kind.value for kind in VerdictKind]), name="verdict_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(evidence__isnull=False) | Q(kind=VerdictKind.INFRASTRUCTURE_ERROR.value),
                name="verdict_rests_on_evidence",
            ),
        ]

    def __str__(self) -> str:
        return self.kind

    @property
    def bound_side(self) -> str:
        """Side of `log_ppm_bound`: `lower`, `upper`, or empty without a bound."""
        return "" if self.log_ppm_bound is None else bound_side(run_kind=self.run.kind, verdict=self.kind)
