"""A lineage's law of sharing: versions, and the one that holds for a submission.

A submission has the law that was in force when it was sealed. A later version concerns later submissions only.
"""

from datetime import datetime

from django.db import transaction

from benchmarks.sharing.royalties import MOST_DAYS, Law
from bounty.errors import BadRequest, NotFound
from bounty.models import Lineage, SharingLaw, Submission
from bounty.services.permissions import require_maintainer
from gainshare.accounts.models import User

MAX_REASON = 300


def set_law(*, actor: User, lineage: str, share_ppm: int, days: int, reason: str) -> SharingLaw:
    """Add a version of the lineage's law. The same terms as before add nothing. Raises NotAllowed, NotFound, BadRequest."""
    require_maintainer(actor, "change how gains are shared")
    try:
        wanted = Law(share_ppm, days)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if not reason.strip() or len(reason) > MAX_REASON:
        raise BadRequest(
            f"Give a reason of at most {MAX_REASON} characters; contributors read it on the lineage's page."
        )
    with transaction.atomic():
        # Submissions take the same lock, so that each is sealed before or after the change.
        row = Lineage.objects.select_for_update(no_key=True).filter(name=lineage).first()
        if row is None:
            raise NotFound("There is no lineage with this name.")
        newest = row.laws.first()
        if newest is not None and newest.terms == wanted:
            return newest
        return SharingLaw.objects.create(
            lineage=row, share_ppm=share_ppm, days=days, reason=reason.strip(), actor=actor
        )


def law_at(lineage_id: int, at: datetime) -> Law:
    """The law in force at that time: the newest version until then, else the default."""
    found = SharingLaw.objects.filter(lineage=lineage_id, created_at__lte=at).first()
    return Law() if found is None else found.terms


def law_of(submission: Submission) -> Law:
    """The law that holds for this submission."""
    return law_at(submission.bounty.lineage_id, submission.sealed_at)


def in_words(law: Law) -> str:
    """`30 % of the saving for 90 days`, for pages and errors."""
    share = f"{law.share_ppm / 10_000:g} %"
    if not law.share_ppm or not law.days:
        return "none of the saving"
    return f"{share} of the saving for {law.days} day{'' if law.days == 1 else 's'}"


__all__ = ["MAX_REASON", "MOST_DAYS", "in_words", "law_at", "law_of", "set_law"]
