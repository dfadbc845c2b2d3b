"""Next steps of the shell on the home page: try a model, make a key, fund the treasury."""

from django.urls import reverse

from gainshare.accounts.models import ApiKey, User
from gainshare.gateway.models import UsageRecord
from gainshare.ledger.kinds import AccountKind
from gainshare.ledger.models import Account
from gainshare.web.home_parts import Suggestion


def own_steps(user: User) -> list[Suggestion]:
    """Next steps of `user`: each is suggested until done once; funding while the treasury is empty."""
    steps = []
    if user.is_maintainer and not _treasury_has_credits():
        steps.append(
            Suggestion(
                "The treasury is empty: issue credits, so that bounties can be opened.", reverse("treasury")
            )
        )
    if not UsageRecord.objects.filter(user=user).exists():
        steps.append(Suggestion("Ask a model a question in the playground.", reverse("playground")))
    if not ApiKey.objects.filter(user=user).exists():
        steps.append(Suggestion("Make an API key for your programs and the command line.", reverse("keys")))
    return steps


def _treasury_has_credits() -> bool:
    return Account.objects.filter(kind=AccountKind.TREASURY, posted_microcredits__gt=0).exists()
