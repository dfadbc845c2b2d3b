"""Questions to GitHub about one pull request, through its repository's installation."""

from bounty.github.app.client import Client, client_for
from bounty.github.app.facts import AccountFacts, GitHubError, PullRequestFacts
from bounty.models import GitHubRepository, InstallationState, PullRequest

MAY_WRITE = ("admin", "write")


class NotConnected(GitHubError):
    """The App is not installed where the repository is, or no longer."""


def client_of(repository: GitHubRepository) -> Client:
    """The client of the repository's installation. Raises GitHubError."""
    found = repository.installation
    if found is None or found.state != InstallationState.ACTIVE:
        raise NotConnected(
            f"The GitHub App has no active installation for {repository.full_name}. Install it there, or resume it."
        )
    return client_for(found)


def newest(facts: PullRequestFacts) -> PullRequestFacts:
    """The pull request as GitHub has it now, or as given where GitHub cannot be asked."""
    repository = GitHubRepository.objects.select_related("installation").get(pk=facts.repository_id)
    try:
        return client_of(repository).pull_request(repository.full_name, facts.number)
    except GitHubError:
        return facts


def may_write(pull: PullRequest, account: AccountFacts) -> bool:
    """Whether this account may write to the repository. Raises GitHubError where GitHub cannot be asked.

    False where its name is another account's by now.
    """
    repository = pull.repository
    level = client_of(repository).permission(repository.full_name, account.login, github_id=account.github_id)
    return level in MAY_WRITE
