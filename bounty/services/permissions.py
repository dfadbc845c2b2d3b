"""Permission check of services that only maintainers may call."""

from bounty.errors import NotAllowed
from gainshare.accounts.models import User


def require_maintainer(actor: User, action: str) -> None:
    """Raises NotAllowed unless the actor is a maintainer; ``action`` completes "Only maintainers can"."""
    if not actor.is_maintainer:
        raise NotAllowed(f"Only maintainers can {action}. Ask a maintainer to give you that role.")
