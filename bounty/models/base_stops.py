"""Stops of lineages whose base tree fails on its own, with the evidence that showed it."""

from __future__ import annotations

from django.db import models

from bounty.models.runs import Run
from bounty.models.stops import LineageStop, one_stands, release_says_who_and_why
from bounty.models.trees import Lineage, StoredTree


class BaseStop(LineageStop):
    """One stop. It stands until a maintainer releases it; a lineage has at most one that stands.

    ``evidence_blob`` is the sealed document in the blob store. It may be of a submission that is not decided, so what it
    measured of the patch is shown to no one.
    """

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="base_stops")
    tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="+")
    evidence_digest = models.CharField(max_length=71)
    evidence_blob = models.CharField(max_length=64)

    class Meta(LineageStop.Meta):
        constraints = [
            one_stands("one_standing_base_stop"),
            release_says_who_and_why("a_release_says_who_and_why"),
        ]
