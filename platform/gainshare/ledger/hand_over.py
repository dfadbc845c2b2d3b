"""Credits stay with the user for whom they were booked, so a dormant user with credits is not handed over."""

from gainshare.accounts.github_accounts import GitHubAccountTaken, register_hand_over
from gainshare.accounts.models import User
from gainshare.ledger.models import Account


def keep_credits(dormant: User, user: User) -> None:
    """Raises GitHubAccountTaken if the dormant user has credits, had some, or will have those of an unvested award."""
    if Account.objects.filter(owner=dormant).exists():
        raise GitHubAccountTaken(
            f"This GitHub account has credits of its own here, under the name {dormant.username}, and credits cannot "
            "change hands. Log out and sign in with GitHub: that account then becomes yours, with its credits."
        )


register_hand_over("credits", keep_credits, position=20)  # after what could still book some
