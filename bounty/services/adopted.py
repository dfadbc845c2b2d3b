"""Which reproduction a bug's fixes are judged with."""

from bounty.errors import NotReproduced
from bounty.models import Bounty, Reproduction, ReproductionState


def adopted(*, bounty: Bounty) -> Reproduction | None:
    """The bounty's own reproduction, if it has one."""
    found = Reproduction.objects.filter(bounty=bounty, state=ReproductionState.ADOPTED)
    return found.select_related("author").first()


def require_adopted(*, bounty: Bounty) -> Reproduction:
    """Raises NotReproduced while a fix could not be judged."""
    found = adopted(bounty=bounty)
    if found is None:
        raise NotReproduced(
            "This bug has no reproduction yet, so no fix of it can be judged: send one in first, with "
            "`gainshare reproduce` or POST reproductions/."
        )
    return found
