"""Fixtures of the tests of merges on GitHub: people with accounts there, pull requests with heads, and trees that land."""

from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import pytest
from django.utils import timezone

from bounty.github.app.facts import AccountFacts, ReviewFacts
from bounty.models import (
    GitHubRepository,
    Head,
    HeadState,
    Landing,
    PullRequest,
    RepositoryBinding,
    StoredTree,
    Submission,
)
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.accounts.models import GitHubAccount, User
from tests.bounty.github.conftest import Bound

_numbers = count(1000)


@dataclass
class Hub:
    """A bound world whose repository the App sees."""

    bound: Bound
    github: GitHubRepository

    def land(self, tree: StoredTree | str, message: str = "merge", *, branch: str = "main") -> str:
        """Commit this tree as the folder; the commit."""
        stored = StoredTree.objects.get(pk=tree) if isinstance(tree, str) else tree
        self.bound.repository.put_tree(stored)
        return self.bound.repository.commit(message, branch=branch)

    def land_candidate(self, submission: Submission) -> str:
        return self.land(candidate(submission))

    def link(self, user: User) -> GitHubAccount:
        return GitHubAccount.objects.create(
            github_id=next(_numbers), login=user.username, user=user, linked_at=timezone.now()
        )

    def head(self, submission: Submission, *, sha: str = "", unmeasured: tuple[str, ...] = ()) -> Head:
        """The measured head of a pull request by the submission's author."""
        author = GitHubAccount.objects.filter(user=submission.submitter).first()
        number, now = next(_numbers), timezone.now()
        sha = sha or f"{number:040x}"
        pull_request = PullRequest.objects.create(
            repository=self.github,
            number=number,
            author=author or self.link(submission.submitter),
            branch="main",
            head_sha=sha,
            opened_at=now,
            updated_at=now,
            bounty=submission.bounty,
        )
        return Head.objects.create(
            pull_request=pull_request,
            sha=sha,
            state=HeadState.SUBMITTED,
            sealed_at=now,
            submission=submission,
            unmeasured_paths=list(unmeasured),
        )


def candidate(submission: Submission) -> StoredTree:
    return StoredTree.objects.get(pk=find_submission(submission.pk).candidate_tree_id)


def accept(who: User, submission: Submission, comment: str = "", **more: object) -> Submission:
    return review(
        actor=who,
        submission_id=submission.pk,
        decision="accept",
        comment=comment,
        **more,  # type: ignore[arg-type]
    )


def state_of(submission: Submission) -> str:
    return find_submission(submission.pk).state


def landing_of(submission: Submission) -> Landing:
    return Landing.objects.filter(submission=submission).latest("pk")


def review_facts(
    head: Head, by: GitHubAccount, *, state: str = "approved", number: int = 0, at_s: int = 0, sha: str = ""
) -> ReviewFacts:
    return ReviewFacts(
        repository_id=head.pull_request.repository_id,
        number=head.pull_request.number,
        review_id=number or next(_numbers),
        author=AccountFacts(by.github_id, "any-name"),
        commit_sha=sha or head.sha,
        state=state,
        submitted_at=timezone.now() + timedelta(seconds=at_s),
    )


@pytest.fixture
def hub(bound: Bound) -> Hub:
    github = GitHubRepository.objects.create(github_id=next(_numbers), full_name="gain/share")
    RepositoryBinding.objects.update(github=github)
    bound.follow()
    return Hub(bound, github)
