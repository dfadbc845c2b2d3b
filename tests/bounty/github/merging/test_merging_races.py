"""Acceptances, declines, merges here and pushes at once: one merge and one award, or none."""

from pathlib import Path

import pytest

from bounty.github.merging.reversals import decide, open_reversals
from bounty.github.repositories.following import follow
from bounty.models import Award, GitHubRepository, Landing, RepositoryBinding, StateChange
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.bounty.github.merging.conftest import Hub, accept, candidate, state_of
from tests.bounty.services.test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)

DIFF = diff_of_line(3, "step_3 = 33")


@pytest.fixture
def hub(served_folder: tuple[Path, str]) -> Hub:
    root, url = served_folder
    bound = Bound(World(), url, Repository(root / "model.git"))
    github = GitHubRepository.objects.create(github_id=1, full_name="gain/share")
    RepositoryBinding.objects.update(github=github)
    bound.follow()
    return Hub(bound, github)


def holds() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def test_an_acceptance_and_a_push_at_once_are_one_award(hub: Hub) -> None:
    world, name = hub.bound.world, hub.bound.lineage.name
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    at_once(
        [
            lambda: accept(world.ruth, submission),
            lambda: follow(lineage=name),
            lambda: follow(lineage=name),
            lambda: accept(world.mira, submission),
        ]
    )
    follow(lineage=name)
    assert state_of(submission) == "vested" and Award.objects.filter(state="vested").count() == 1
    assert StateChange.objects.filter(subject="lineage", reason__startswith="merged").count() == 1
    assert Landing.objects.filter(state="merged").count() <= 1 and holds()


@pytest.mark.parametrize("attempt", range(3))
def test_a_decline_and_a_merge_at_once_are_one_of_both(hub: Hub, attempt: int) -> None:
    world, name = hub.bound.world, hub.bound.lineage.name
    submission = accept(world.ruth, world.confirmed(world.ann, DIFF))
    hub.land_candidate(submission)
    at_once(
        [
            lambda: review(actor=world.mira, submission_id=submission.pk, decision="decline"),
            lambda: (
                merge(actor=world.ruth, submission_id=submission.pk) if attempt == 2 else follow(lineage=name)
            ),
        ]
    )
    follow(lineage=name)
    found = find_submission(submission.pk)
    paid = ledger.balance(world.ann).available
    assert (found.state == "vested") == (paid > 0) == (found.merged_at is not None)
    assert found.state in ("vested", "declined") and holds()
    assert hub.bound.lineage.tip == candidate(submission)


def test_two_answers_at_once_are_one(hub: Hub) -> None:
    world = hub.bound.world
    submission = accept(world.ruth, world.confirmed(world.ann, DIFF))
    hub.land_candidate(submission)
    hub.bound.follow()
    hub.land(world.tree)
    hub.bound.follow()
    row = open_reversals().get()
    at_once(
        [
            lambda: decide(actor=world.ruth, reversal_id=row.pk, answer="confirmed", text="yes"),
            lambda: decide(actor=world.mira, reversal_id=row.pk, answer="dismissed", text="no"),
            lambda: hub.bound.follow(),
        ]
    )
    row.refresh_from_db()
    is_taken_back = row.state == "confirmed"
    assert (state_of(submission) == "reversed") == is_taken_back and holds()
    assert (ledger.balance(world.ann).available == 0) == is_taken_back
