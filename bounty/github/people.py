"""Authors and commenters on GitHub as users of the platform: found by GitHub's number only."""

from __future__ import annotations

from bounty.github.app.facts import AccountFacts
from bounty.github.unclaimed import return_unclaimed
from gainshare.accounts.errors import DomainError
from gainshare.accounts.github_accounts import github_account
from gainshare.accounts.models import GitHubAccount

__all__ = ["BotAccount", "account_of", "return_unclaimed"]


class BotAccount(DomainError):
    """A bot cannot be paid, so it gets no account."""

    code = "bot_account"
    status = 422


def account_of(facts: AccountFacts) -> GitHubAccount:
    """The account with this number, with its name as last seen; a dormant one is made if there is none.

    A renamed user stays the same person, and another number with the same name is another person. Repeating changes
    nothing, and callers at once get the same account. Raises BotAccount.
    """
    if facts.is_bot:
        raise BotAccount(f"{facts.login} is a bot. Bots cannot submit patches or earn credits.")
    return github_account(github_id=facts.github_id, login=facts.login)
