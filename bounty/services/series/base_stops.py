"""Stops of lineages whose base tree fails on its own: no submission is taken and no run is leased until a maintainer
releases the stop.

The evidence decides: base failed again in attempts without the patch (`benchmarks.evidence.base_checks`). The run that
found it is forgiven and waits in the queue. A release measures the same tree again, so a tree that is still broken stops
its lineage again; a maintainer who reverses the award of the last merge moves the tip back.
"""

import json
from typing import Any

from django.db import transaction
from django.utils import timezone

from benchmarks.evidence.canonical import canonical_bytes
from bounty.errors import BadRequest, BaseFailed, NotFound, WrongState
from bounty.models import BaseStop, Lineage, Run, RunState
from bounty.services.permissions import require_maintainer
from bounty.services.trees import blob_store
from gainshare.accounts.models import User


def standing_stops() -> list[BaseStop]:
    """All stops that stand, newest first."""
    return list(BaseStop.objects.filter(released_at=None).select_related("lineage"))


def stopped_lineages() -> frozenset[int]:
    """Ids of the lineages that are stopped."""
    return frozenset(BaseStop.objects.filter(released_at=None).values_list("lineage_id", flat=True))


def require_sound_base(lineage: Lineage) -> None:
    """Raises BaseFailed while the lineage is stopped."""
    if (stop := lineage.standing_stop) is not None:
        raise BaseFailed(
            f"The lineage {lineage.name} is stopped: {stop.reason} Submit again when a maintainer has released it."
        )


def stop_evidence(name: str) -> dict[str, Any]:
    """What showed the failure, without what was measured of a patch: the digest, events and attempts. Raises NotFound."""
    stop = BaseStop.objects.filter(lineage__name=name, released_at=None).first()
    if stop is None:
        raise NotFound("This lineage is not stopped.")
    sealed = json.loads(blob_store().get(stop.evidence_blob))
    return {
        "digest": stop.evidence_digest,
        **{key: sealed["document"][key] for key in ("events", "base_checks")},
    }


def stop_lineages(*, run: Run, sealed: dict[str, Any], reason: str) -> list[BaseStop]:
    """Stop the lineages that measure against the run's base tree. A lineage that is stopped already keeps its stop."""
    blob = blob_store().put(canonical_bytes(sealed))
    made = []
    for lineage in _lineages_of(run):
        stop, is_new = BaseStop.objects.get_or_create(
            lineage=lineage,
            released_at=None,
            defaults={
                "tree": run.base_tree,
                "run": run,
                "reason": reason,
                "evidence_digest": sealed["digest"],
                "evidence_blob": blob,
            },
        )
        if is_new:
            made.append(stop)
    return made


def _lineages_of(run: Run) -> list[Lineage]:
    """The lineage that the run belongs to; for an A/A run, those that begin at its tree."""
    if run.submission is not None:
        return [run.submission.bounty.lineage]
    if run.reproduction is not None:
        return [run.reproduction.bounty.lineage]
    return list(Lineage.objects.filter(tip=run.base_tree).order_by("pk"))


def release_lineage(*, actor: User, name: str, reason: str) -> BaseStop:
    """Release a lineage's stop. Its runs that waited are due at once. Raises NotAllowed, NotFound, BadRequest, WrongState."""
    require_maintainer(actor, "release a lineage")
    lineage = Lineage.objects.filter(name=name).first()
    if lineage is None:
        raise NotFound("There is no such lineage.")
    if not reason.strip():
        raise BadRequest("Say why the base tree can be measured again; the reason is kept with the stop.")
    with transaction.atomic():
        standing = BaseStop.objects.filter(lineage=lineage, released_at=None)
        stop = standing.first()
        released = {"released_at": timezone.now(), "released_by": actor, "release_reason": reason.strip()}
        if stop is None or not standing.filter(pk=stop.pk).update(**released):
            raise WrongState("This lineage is not stopped.")
        # Wake-ups of runs that could not be leased were for nothing, so new ones are due.
        Run.objects.filter(state=RunState.QUEUED).update(woken_at=None)
        stop.refresh_from_db()
    return stop
