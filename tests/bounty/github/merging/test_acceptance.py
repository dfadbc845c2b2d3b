"""Reviews on GitHub count as acceptances of linked maintainers, by GitHub's number, of exactly the measured head."""

import pytest

from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.github.merging import reconcile
from bounty.github.merging.acceptance import accept_paths, approve
from bounty.models import Approval, Award, Head, PullRequest, Review
from bounty.services.awards.lifecycle import acceptances, vest
from bounty.services.merges import merge
from bounty.services.submissions import find_submission
from gainshare.accounts.models import GitHubAccount
from tests.bounty.bounty_world import diff_of_line, make_user
from tests.bounty.github.merging.conftest import Hub, accept, review_facts, state_of

DIFF = diff_of_line(3, "step_3 = 33")
SETUP, HOOK = "setup.py", "tools/hook.sh"


def confirmed(hub: Hub, unmeasured: tuple[str, ...] = ()) -> Head:
    world = hub.bound.world
    return hub.head(world.confirmed(world.ann, DIFF), unmeasured=unmeasured)


def submission_of(head: Head) -> str:
    assert head.submission is not None
    return state_of(head.submission)


def test_an_approval_by_a_linked_maintainer_is_an_acceptance(hub: Hub) -> None:
    head, ruth = confirmed(hub), hub.link(hub.bound.world.ruth)
    facts = review_facts(head, ruth)
    for _ in range(3):
        approve(head, facts)
    review = Review.objects.get()
    assert (review.reviewer, review.decision) == (hub.bound.world.ruth, "accept")
    assert submission_of(head) == "accepted" and Approval.objects.get().counted_as == review


@pytest.mark.parametrize("state", ["commented", "changes_requested", "dismissed", "pending", ""])
def test_any_other_review_is_none(hub: Hub, state: str) -> None:
    head, ruth = confirmed(hub), hub.link(hub.bound.world.ruth)
    approve(head, review_facts(head, ruth, state=state))
    assert not Review.objects.exists() and submission_of(head) == "confirmed"


def test_an_approval_of_another_commit_is_none(hub: Hub) -> None:
    head, ruth = confirmed(hub), hub.link(hub.bound.world.ruth)
    assert approve(head, review_facts(head, ruth, sha="f" * 40)) is None
    other = confirmed_elsewhere(hub)
    assert approve(head, review_facts(other, ruth, sha=head.sha)) is None
    assert not Review.objects.exists()


def confirmed_elsewhere(hub: Hub) -> Head:
    world = hub.bound.world
    return hub.head(world.submit(world.bob, diff_of_line(9, "step_9 = 99")))


def test_an_approval_by_anybody_else_is_none(hub: Hub) -> None:
    world, head = hub.bound.world, confirmed(hub)
    dormant = hub.link(make_user("dora", "maintainer"))
    GitHubAccount.objects.filter(pk=dormant.pk).update(linked_at=None)
    author = GitHubAccount.objects.get(user=world.ann)
    stranger = GitHubAccount(github_id=77, login=world.ruth.username, user=world.ruth)  # of that name only
    for account in (hub.link(world.bob), dormant, author, stranger):
        row = approve(head, review_facts(head, account))
        assert row is not None and row.counted_as is None and row.problem
    assert not Review.objects.exists() and submission_of(head) == "confirmed"


def test_a_maintainer_does_not_approve_their_own(hub: Hub) -> None:
    world = hub.bound.world
    head = hub.head(world.confirmed(world.mira, DIFF))
    row = approve(head, review_facts(head, GitHubAccount.objects.get(user=world.mira)))
    assert row is not None and "cannot review your own" in row.problem and submission_of(head) == "confirmed"


def test_whose_pull_request_it_is_does_not_accept_it(hub: Hub) -> None:
    """Its diff was submitted by somebody else, as the same candidate."""
    world = hub.bound.world
    head = confirmed(hub)
    PullRequest.objects.filter(pk=head.pull_request_id).update(author=hub.link(world.mira))
    with pytest.raises(NotAllowed):
        accept(world.mira, find_submission(head.submission_id))  # type: ignore[arg-type]


def test_an_acceptance_of_a_person_who_became_the_payee_does_not_count(hub: Hub) -> None:
    """A dormant author is claimed by an account that had accepted before."""
    world = hub.bound.world
    head = confirmed(hub)
    submission = accept(world.ruth, find_submission(head.submission_id))  # type: ignore[arg-type]
    assert acceptances(submission) == (1, 1)
    GitHubAccount.objects.filter(user=world.ann).update(user=world.ruth)
    assert acceptances(find_submission(submission.pk)) == (0, 1)


def test_a_dismissed_approval_never_comes_back(hub: Hub) -> None:
    head, ruth = confirmed(hub), hub.link(hub.bound.world.ruth)
    approve(head, review_facts(head, ruth, number=5, state="dismissed"))
    approve(head, review_facts(head, ruth, number=5))  # the earlier event, late
    assert reconcile() == 0
    assert not Review.objects.exists() and submission_of(head) == "confirmed"


def test_a_dismissal_takes_back_what_is_not_enough_yet(hub: Hub) -> None:
    world = hub.bound.world
    type(world.bounty).objects.filter(pk=world.bounty.pk).update(min_reviewers=2)
    head, ruth = confirmed(hub), hub.link(world.ruth)
    assert head.submission_id is not None

    def given() -> int:
        return acceptances(find_submission(head.submission_id))[0]  # type: ignore[arg-type]

    approve(head, review_facts(head, ruth, number=5))
    assert given() == 1 and submission_of(head) == "confirmed"
    approve(head, review_facts(head, ruth, number=5, state="dismissed"))
    assert given() == 0
    approve(head, review_facts(head, ruth, number=5))
    assert given() == 0
    approve(head, review_facts(head, ruth, number=6))
    assert given() == 1
    approve(head, review_facts(head, ruth, number=7, state="changes_requested", at_s=60))
    approve(head, review_facts(head, ruth, number=6))
    assert given() == 0
    accept(world.mira, find_submission(head.submission_id))
    assert (given(), submission_of(head)) == (1, "confirmed")
    accept(world.ruth, find_submission(head.submission_id))
    assert (given(), submission_of(head)) == (2, "accepted")


def test_an_approval_before_the_verdict_counts_when_it_is_confirmed(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.submit(world.ann, DIFF)
    head, ruth = hub.head(submission), hub.link(world.ruth)
    approve(head, review_facts(head, ruth))
    assert not Review.objects.exists()
    world.gate(submission, 0.3)
    world.price(submission, 0.3)
    assert reconcile() == 1 and state_of(submission) == "accepted" and reconcile() == 0


def test_an_approval_of_an_older_candidate_does_not_count(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.submit(world.ann, DIFF)
    head, ruth = hub.head(submission), hub.link(world.ruth)
    approve(head, review_facts(head, ruth))
    hub.bound.push("gate = 'sigmoid'\n")
    hub.bound.follow()
    world.advance(submission)
    for _ in ("gate", "price", "comparison"):
        world.gate(submission, 0.3)
    world.guard(submission)
    assert state_of(submission) == "confirmed"
    reconcile()
    assert "another one since" in Approval.objects.get().problem and not Review.objects.exists()


def test_files_that_nobody_measured_are_named_or_the_acceptance_is_refused(hub: Hub) -> None:
    world, head = hub.bound.world, confirmed(hub, (SETUP, HOOK))
    submission = find_submission(head.submission_id)  # type: ignore[arg-type]
    for said in ("", "fine", f"fine, {SETUP}", HOOK):
        with pytest.raises(BadRequest, match="code that nobody measured"):
            accept(world.ruth, submission, said)
    with pytest.raises(BadRequest, match=HOOK):
        accept_paths(head, actor=world.ruth, paths=[SETUP])
    approval = approve(head, review_facts(head, hub.link(world.ruth)))
    assert approval is not None and SETUP in approval.problem
    assert not Review.objects.exists() and submission_of(head) == "confirmed"
    with pytest.raises(NotAllowed):
        accept_paths(head, actor=world.ann, paths=[SETUP, HOOK])
    accept_paths(head, actor=world.mira, paths=[SETUP, HOOK])
    assert submission_of(head) == "accepted"
    accept(world.ruth, submission)  # named once
    merge(actor=world.mira, submission_id=submission.pk)
    assert submission_of(head) == "vested"


def test_a_decline_names_nothing(hub: Hub) -> None:
    from bounty.services.reviews import review

    world, head = hub.bound.world, confirmed(hub, (SETUP,))
    assert head.submission_id is not None
    review(actor=world.ruth, submission_id=head.submission_id, decision="decline")
    assert submission_of(head) == "declined"


def test_nothing_vests_before_they_are_named_however_it_was_accepted(hub: Hub) -> None:
    """A newer head of the pull request adds one after the acceptance; the review window passes; it is merged."""
    world, head = hub.bound.world, confirmed(hub)
    submission = find_submission(head.submission_id)  # type: ignore[arg-type]
    accept(world.ruth, submission)
    Head.objects.create(
        pull_request=head.pull_request, sha="a" * 40, sealed_at=head.sealed_at, unmeasured_paths=[SETUP]
    )
    PullRequest.objects.filter(pk=head.pull_request_id).update(head_sha="a" * 40)
    assert not vest(submission=find_submission(submission.pk), reason="the review window passed")
    with pytest.raises(WrongState, match=SETUP):
        merge(actor=world.mira, submission_id=submission.pk)
    hub.land_candidate(submission)
    problem = hub.bound.follow().problem
    assert SETUP in problem and state_of(submission) == "accepted"
    assert hub.bound.lineage.tip == world.tree and not Award.objects.filter(state="vested").exists()
    accept(world.mira, submission, SETUP)
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"
