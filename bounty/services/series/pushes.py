"""Trees that pushes replaced: a gain has to beat them as well, since no push is measured.

Otherwise somebody could push a slower tree, and be paid for winning back what it lost.
"""

from bounty.models import Bounty, Push, StoredTree, Submission
from bounty.services.series.best import best_award


def replaced_by_pushes(*, bounty: Bounty, of: Submission | None = None) -> list[StoredTree]:
    """Tips that a push replaced and that no push had brought, the oldest first.

    Only those since the series' best gain was priced: that gain has beaten the earlier ones. For the submission ``of``
    those before its own merge.
    """
    found_pushes = Push.objects.filter(lineage=bounty.lineage_id).select_related("replaced").order_by("pk")
    if of is not None and of.merged_at is not None:
        found_pushes = found_pushes.filter(created_at__lt=of.merged_at)
    pushes = list(found_pushes)
    best = best_award(bounty=bounty, of=of)
    since = None if best is None or best.confirmation_run is None else best.confirmation_run.queued_at
    found: dict[str, StoredTree] = {}
    brought = ""  # the tree that the push before brought
    for push in pushes:
        if push.replaced_id != brought and (since is None or push.created_at > since):
            found[push.replaced_id] = push.replaced
        brought = push.tree_id
    return list(found.values())
