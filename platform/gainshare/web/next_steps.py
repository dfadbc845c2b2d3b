"""What the shell suggests to a person on the home page: to try a model, to make a key, to fund the treasury."""

from django.urls import reverse

from gainshare.accounts.models import ApiKey, User
from gainshare.gateway.models import UsageRecord
from gainshare.ledger.kinds import AccountKind
from gainshare.ledger.models import Account
from gainshare.web.home_parts import Suggestion


def own_steps(user: User) -> list[Suggestion]:
    """Each is suggested until it was done once; an empty treasury as long as it is empty."""
    steps = []
    if user.is_maintainer and not _treasury_has_credits():
        steps.append(
            Suggestion("The treasury is empty: issue credits, so that bounties can pay.", reverse("treasury"))
        )
    if not UsageRecord.objects.filter(user=user).exists():
        steps.append(Suggestion("Ask a model something in the playground.", reverse("playground")))
    if not ApiKey.objects.filter(user=user).exists():
        steps.append(Suggestion("Make a key for your own programs and the command line.", reverse("keys")))
    return steps


def _treasury_has_credits() -> bool:
    return Account.objects.filter(kind=AccountKind.TREASURY, posted_microcredits__gt=0).exists()
