"""Releasing a lineage, whatever stopped it: a base tree that fails on its own, or a branch that lost the tip."""

from bounty.github.repositories.bindings import release_repository_stop
from bounty.models import BaseStop, Lineage, RepositoryStop
from bounty.services.series.base_stops import release_lineage
from gainshare.accounts.models import User


def release_stop(*, actor: User, name: str, reason: str) -> BaseStop | RepositoryStop:
    """Release the lineage's stop. Of two, the base's comes first: each takes a reason of its own.

    Raises NotAllowed, NotFound, BadRequest, WrongState.
    """
    lineage = Lineage.objects.filter(name=name).first()
    if lineage is not None and lineage.standing_stop is None and lineage.standing_repository_stop is not None:
        return release_repository_stop(actor=actor, name=name, reason=reason)
    return release_lineage(actor=actor, name=name, reason=reason)
