"""Bugs after the layout changed: the adopted reproduction stays, open fixes end, a booked fix is paid once."""

import pytest

from bounty.errors import OldLayout
from bounty.models import BountyState, ReproductionState, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_awards
from bounty.services.bounties import find_bounty
from bounty.services.renewal import renew_lineages
from bounty.services.reviews import review
from bounty.services.submissions import attempts_used, find_submission
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World
from tests.bounty.bug_world import AWARD, FIX, OTHER_FIX, REST, SHARE, TEXT, BugWorld
from tests.bounty.older_layout import (
    OLD_MODULES,
    broken_invariants,
    new_file,
    older_version,
    unfinished_runs,
)

pytestmark = pytest.mark.django_db


def old_bugs() -> BugWorld:
    return BugWorld(modules=OLD_MODULES)


def renew(world: World) -> str:
    return renew_lineages(actor=world.mira).shipped_tree


def free_escrow(world: BugWorld) -> int:
    return ledger.escrow_balance(world.bug.escrow_reference).available


def test_an_open_fix_ends_and_the_reproduction_stays() -> None:
    with older_version():
        world = old_bugs()
        adopted = world.adopted()
        fix = world.submit(world.bob, FIX, world.bug)
    shipped = renew(world)
    fix = find_submission(fix.pk)
    assert (fix.state, fix.verdict_kind) == ("judged", "patch_rejected")
    assert attempts_used(bounty=world.bug, person=world.bob) == 0
    adopted.refresh_from_db()
    assert adopted.state == ReproductionState.ADOPTED
    again = world.submit(world.bob, new_file("mended"), world.bug)
    assert (again.state, again.base_tree_id) == (SubmissionState.QUEUED, shipped)
    world.try_out()
    assert advance_submission(submission_id=again.pk).state == SubmissionState.CONFIRMED
    assert broken_invariants() == []


def test_a_booked_fix_pays_both_on_acceptance_and_closes_the_bug() -> None:
    with older_version():
        world = old_bugs()
        world.adopted()
        fix = world.fix()
    shipped = renew(world)
    review(actor=world.ruth, submission_id=fix.pk, decision="accept")
    fix = advance_submission(submission_id=fix.pk)
    assert (fix.state, fix.merged_at) == (SubmissionState.VESTED, None)
    assert (ledger.balance(world.ann).available, ledger.balance(world.bob).available) == (SHARE, REST)
    assert find_bounty(world.bug.pk).state == BountyState.CLOSED
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == shipped and broken_invariants() == []


def test_a_second_fix_that_waited_ends_and_the_first_is_paid() -> None:
    with older_version():
        world = old_bugs()
        first, second = world.two_fixes()
        assert second.next_step == "await_escrow"
    renew(world)
    second.refresh_from_db()
    assert (second.state, second.next_step, second.verdict_kind) == ("judged", "", "patch_rejected")
    assert [award.state for award in standing_awards(find_submission(first.pk))] == ["unvested", "unvested"]
    assert free_escrow(world) == 5 * AWARD and broken_invariants() == []


def test_a_reproduction_that_was_not_tried_may_be_sent_again() -> None:
    with older_version():
        world = old_bugs()
        waiting = world.reproduce(world.ann)
    with pytest.raises(OldLayout, match="gainshare lineages renew"):
        world.reproduce(world.bob, TEXT + "\n# mine\n")
    done = renew_lineages(actor=world.mira)
    assert done.lineages[0].reproductions == (waiting.pk,)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.verdict_kind) == ("refused", "infrastructure_error")
    assert "Submit the reproduction again" in waiting.verdict_reason
    again = world.reproduce(world.ann)
    assert again.tree_id == done.shipped_tree and unfinished_runs() == 1


def test_a_fix_on_an_older_tree_cannot_be_tried_twice() -> None:
    with older_version():
        world = old_bugs()
        world.adopted()
        world.submit(world.bob, FIX, world.bug)
        world.submit(world.ann, OTHER_FIX, world.bug)
    assert len(renew_lineages(actor=world.mira).lineages[0].ended) == 2
    assert unfinished_runs() == 0 and free_escrow(world) == AWARD
