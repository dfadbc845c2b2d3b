"""Read-only Django admin of the bounty app. Every change goes through a service."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from bounty.models import (
    Award,
    Bounty,
    Dispute,
    Evidence,
    Lineage,
    Reproduction,
    Review,
    Run,
    Runner,
    RunVerdict,
    StateChange,
    StoredTree,
    Submission,
)

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin  # Django's own class takes no type argument when it runs


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows; no one can add, change or delete them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Bounty)
class BountyAdmin(ReadOnlyAdmin):
    list_display = ["short_name", "title", "lineage", "suite", "preset", "hardware", "state", "created_at"]
    list_filter = ["state", "suite", "hardware", "lineage"]


@admin.register(Submission)
class SubmissionAdmin(ReadOnlyAdmin):
    list_display = ["id", "bounty", "submitter", "state", "verdict_kind", "sealed_at"]
    list_filter = ["state", "verdict_kind"]
    search_fields = ["id", "submitter__username", "patch_digest", "candidate_tree__hash"]


@admin.register(Reproduction)
class ReproductionAdmin(ReadOnlyAdmin):
    list_display = ["id", "bounty", "author", "state", "verdict_kind", "sealed_at"]
    list_filter = ["state"]


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "submission", "state", "attempt", "runner", "pairs_done", "queued_at"]
    list_filter = ["state", "kind", "hardware"]
    exclude = ["lease", "nonce"]  # the runner's credential


@admin.register(RunVerdict)
class RunVerdictAdmin(ReadOnlyAdmin):
    list_display = ["run", "kind", "log_ppm_estimate", "log_ppm_bound", "pairs", "created_at"]
    list_filter = ["kind"]


@admin.register(Evidence)
class EvidenceAdmin(ReadOnlyAdmin):
    list_display = ["digest", "run", "sandbox_level", "is_award_eligible", "created_at"]
    exclude = ["samples"]


@admin.register(Award)
class AwardAdmin(ReadOnlyAdmin):
    list_display = ["submission", "role", "state", "amount_microcredits", "log_ppm_bound", "booked_at"]
    list_filter = ["state"]


@admin.register(Runner)
class RunnerAdmin(ReadOnlyAdmin):
    list_display = ["name", "hardware", "state", "key_id", "last_seen_at"]
    list_filter = ["state", "hardware"]
    exclude = ["token_hash"]


@admin.register(StateChange)
class StateChangeAdmin(ReadOnlyAdmin):
    list_display = ["subject", "subject_id", "old", "new", "reason", "actor", "created_at"]
    list_filter = ["subject"]
    search_fields = ["subject_id"]


@admin.register(Lineage)
class LineageAdmin(ReadOnlyAdmin):
    list_display = ["name", "tip", "is_demo", "created_at"]


@admin.register(Review)
class ReviewAdmin(ReadOnlyAdmin):
    list_display = ["submission", "reviewer", "decision", "created_at"]


@admin.register(StoredTree)
class StoredTreeAdmin(ReadOnlyAdmin):
    list_display = ["hash", "parent", "created_by", "created_at"]
    exclude = ["manifest"]


@admin.register(Dispute)
class DisputeAdmin(ReadOnlyAdmin):
    list_display = ["id", "submission", "verdict_kind", "author", "state", "answered_by", "created_at"]
    list_filter = ["state", "verdict_kind"]
    search_fields = ["id", "submission__id", "author__username"]
