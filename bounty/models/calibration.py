"""Results of A/A runs and failed attempts, per runner. Rows are append-only, which a trigger enforces."""

from __future__ import annotations

from django.db import models

from bounty.models.runners import Runner
from bounty.models.runs import Run
from bounty.models.submissions import VERDICT_CHOICES


class NoiseSample(models.Model):
    """One finished A/A run: the difference of a tree from itself on this runner, in millionths of a nat."""

    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="noise_sample")
    runner = models.ForeignKey(Runner, on_delete=models.PROTECT, related_name="noise_samples")
    suite = models.CharField(max_length=60)
    preset = models.CharField(max_length=60)
    pairs = models.PositiveIntegerField()
    noise_log_ppm = models.BigIntegerField(help_text="Standard deviation of the pairs.")
    median_log_ppm = models.BigIntegerField(help_text="Zero but for noise.")
    slowdown_log_ppm = models.BigIntegerField(
        null=True, help_text="Of base beside the candidate against base beside itself."
    )
    verdict_kind = models.CharField(max_length=24, choices=VERDICT_CHOICES)
    is_good = models.BooleanField()
    fault = models.TextField(blank=True, help_text="Why it is not good.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["runner", "suite", "preset", "created_at"])]

    def __str__(self) -> str:
        return f"{self.suite}/{self.preset}: {self.noise_log_ppm} ppm, {'good' if self.is_good else 'bad'}"


class RunnerFailure(models.Model):
    """One attempt at a run that failed on this runner, as far as is known through the runner's fault."""

    runner = models.ForeignKey(Runner, on_delete=models.PROTECT, related_name="failures")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="+")
    attempt = models.PositiveSmallIntegerField()
    reason = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["runner", "created_at"])]
        constraints = [
            models.UniqueConstraint(fields=["run", "attempt"], name="an_attempt_fails_once"),
        ]

    def __str__(self) -> str:
        return self.reason
