"""People who were priced against a slow base are measured again without it, and paid the difference upward."""

import pytest

from bounty.errors import NotAllowed
from bounty.models import (
    Award,
    AwardRole,
    AwardState,
    Lineage,
    Repricing,
    RepricingState,
    RunKind,
    SlowBase,
    Submission,
)
from bounty.services.awards.lifecycle import reverse, standing_award
from bounty.services.bounties import close_bounty, return_leftover
from bounty.services.emergency import lift, stop
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.runs.maintenance import cancel_run
from bounty.services.runs.prices import sets_price
from bounty.services.series.best import best_award
from bounty.services.series.slow_bases import decide_slow_base
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, make_user
from tests.bounty.older_layout import OLD_MODULES, older_version, unfinished_runs

FIRST, SECOND, THIRD = (diff_of_line(line, f"step_{line} = 0") for line in (3, 7, 11))


def called_slow(world: World, slow: Submission) -> Award:
    """A maintainer decides that the tree of this submission's award lost what was paid for it."""
    award = standing_award(slow)
    assert award is not None
    row = SlowBase.objects.create(run=slow.runs.get(kind=RunKind.GATE), award=award)
    decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer="slow", text="it sleeps since Monday")
    award.refresh_from_db()
    return award


def amount_of(submission: Submission) -> int:
    award = standing_award(submission)
    assert award is not None and award.amount_microcredits is not None
    return award.amount_microcredits


def supplement_of(submission: Submission) -> Award | None:
    return submission.awards.filter(role=AwardRole.SUPPLEMENT).first()


def holds(world: World) -> None:
    assert [invariant.name for invariant in audit() if not invariant.holds] == []
    assert not Repricing.objects.filter(state__in=["waiting", "measuring"]).exists()


def settle() -> None:
    """Let the control plane do what is due."""
    assert reconcile_runs().failed == []


def measured_again(world: World, *gains: float) -> None:
    """Let the control plane order what is due, and measure each run that it orders, one after the other, in nats."""
    settle()
    for gain in gains:
        world.judge(gain)
        settle()


def test_a_vested_gain_that_had_to_beat_a_falsely_fast_base_is_paid_the_difference(world: World) -> None:
    """Bob's patch is worth 0.3 nats without Ann's, and was measured as 0.1 with it."""
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    before, came_back = amount_of(bob), amount_of(slow)
    called_slow(world, slow)
    settle()
    run = world.lease()
    assert (run.kind, run.submission_id, run.base_tree_id) == (RunKind.RECHECK, bob.pk, world.tree.pk)
    assert run.candidate_tree_id not in (
        bob.candidate_tree_id,
        world.tree.pk,
    )  # his diff on the tree before Ann's
    world.commit(run)
    world.finish(run, 0.3)
    settle()
    assert supplement_of(bob) is None  # guard rails come before any award
    assert world.lease().kind == RunKind.GUARD
    guard = bob.runs.get(kind=RunKind.GUARD, sequence=2)
    world.commit(guard)
    world.finish(guard, 0.0)
    settle()
    paid = supplement_of(bob)
    assert paid is not None and paid.state == AwardState.VESTED and paid.log_ppm_bound is not None
    assert before + (paid.amount_microcredits or 0) == 20_000_000 * paid.log_ppm_bound // 1_000_000
    assert paid.amount_microcredits == pytest.approx(0.2 * 20_000_000, rel=0.05)
    assert ledger.balance(world.bob).available == before + (paid.amount_microcredits or 0)
    escrow = ledger.escrow_balance(world.bounty.escrow_reference)
    assert escrow.reserved == 0 and came_back > (paid.amount_microcredits or 0)
    assert escrow.posted == 100_000_000 - before - (paid.amount_microcredits or 0)
    assert standing_award(find_submission(bob.pk)).role == AwardRole.GAIN  # type: ignore[union-attr]
    holds(world)


def test_a_gain_that_looked_larger_against_the_slow_base_keeps_its_price(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.2)
    before = amount_of(bob)
    called_slow(world, slow)
    settle()
    world.judge(0.1)
    settle()
    row = Repricing.objects.get()
    assert row.state == RepricingState.UNCHANGED and "it is worth" in row.outcome
    assert (amount_of(bob), supplement_of(bob)) == (before, None)
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == 0
    holds(world)


def test_the_series_is_priced_in_its_order_each_on_the_one_before_it(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    cleo = make_user("cleo")
    last = world.vested(cleo, THIRD, 0.1)
    called_slow(world, slow)
    settle()
    first = world.judge(0.2)
    settle()
    world.judge(0.0)  # guard rails
    settle()
    second = world.judge(0.25)
    settle()
    world.judge(0.0)
    settle()
    assert (first.submission_id, second.submission_id) == (bob.pk, last.pk)
    assert second.base_tree_id == first.candidate_tree_id
    assert [row.state for row in Repricing.objects.all()] == ["paid", "paid"]
    best = best_award(bounty=world.bounty)
    assert best is not None and best.submission_id == last.pk and best.role == AwardRole.GAIN
    assert best.confirmation_run is not None
    assert best.confirmation_run.candidate_tree_id == last.candidate_tree_id
    holds(world)


def test_no_more_is_paid_than_came_back(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.1)
    bob = world.vested(world.bob, SECOND, 0.1)
    last = world.vested(make_user("cleo"), THIRD, 0.1)
    came_back = amount_of(slow)
    called_slow(world, slow)
    measured_again(world, 0.5, 0.0)
    paid = supplement_of(bob)
    assert paid is not None and (paid.amount_microcredits, paid.is_partial) == (came_back, True)
    row = Repricing.objects.get(submission=last)
    assert row.state == RepricingState.UNCHANGED and "nothing is left" in row.outcome
    holds(world)


def test_what_came_back_is_held_and_not_returned_with_a_closed_bounty(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    came_back = amount_of(slow)
    called_slow(world, slow)
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == came_back
    close_bounty(bounty_id=world.bounty.pk, reason="enough")
    assert not return_leftover(bounty_id=world.bounty.pk)
    measured_again(world, 0.3, 0.0)
    assert supplement_of(bob) is not None
    world.bounty.refresh_from_db()
    assert world.bounty.escrow_returned_at is not None
    holds(world)


def test_credits_that_went_back_with_a_closed_escrow_pay_no_one(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    other = world.open(title="Second bounty of the series")
    bob = world.confirmed(world.bob, SECOND, 0.1, other)
    close_bounty(bounty_id=world.bounty.pk, reason="enough")
    called_slow(world, slow)
    row = Repricing.objects.get()
    assert (row.submission_id, row.state) == (bob.pk, RepricingState.UNCHANGED)
    assert "closed escrow" in row.outcome
    holds(world)


def test_an_unmerged_gain_follows_the_best_tree_and_gets_what_its_reservation_did_not_hold(
    world: World,
) -> None:
    """Its new price is at most what its gate reserved, against the slow base; the rest comes from what came back."""
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.confirmed(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    settle()
    assert find_submission(bob.pk).state == "confirming"
    run = world.judge(0.3)
    assert run.base_tree_id == world.tree.pk
    settle()
    world.judge(0.0)
    settle()
    bob = find_submission(bob.pk)
    paid = supplement_of(bob)
    assert bob.state == "confirmed" and paid is not None and paid.state == AwardState.UNVESTED
    assert amount_of(bob) + (paid.amount_microcredits or 0) == pytest.approx(0.3 * 20_000_000, rel=0.02)
    review(actor=world.mira, submission_id=bob.pk, decision="accept")
    merge(actor=world.mira, submission_id=bob.pk)
    paid.refresh_from_db()
    assert paid.state == AwardState.VESTED
    assert ledger.balance(world.bob).available == amount_of(bob) + (paid.amount_microcredits or 0)
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == bob.candidate_tree_id
    holds(world)


def test_a_patch_that_was_refused_against_the_slow_base_is_judged_again(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    refused = world.submit(world.bob, SECOND)
    world.gate(refused, 0.0)
    far = world.submit(make_user("cleo"), THIRD)
    world.gate(far, -0.6)
    assert find_submission(refused.pk).verdict_kind == "no_gain"
    called_slow(world, slow)
    assert find_submission(refused.pk).state == "queued"
    assert find_submission(far.pk).state == "judged"  # it lost more than was paid for the slow base
    settle()
    run = world.lease()
    assert (run.kind, run.submission_id, run.base_tree_id) == (RunKind.GATE, refused.pk, world.tree.pk)
    world.commit(run)
    world.finish(run, 0.3)
    measured_again(world, 0.3, 0.0)
    assert amount_of(find_submission(refused.pk)) == pytest.approx(0.3 * 20_000_000, rel=0.02)
    holds(world)


def test_a_patch_that_needs_the_slow_tree_keeps_its_price(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, diff_of_line(3, "step_3 = 1", old="step_3 = 0"), 0.1)
    called_slow(world, slow)
    settle()
    row = Repricing.objects.get()
    assert row.state == RepricingState.UNCHANGED and "does not apply" in row.outcome
    assert supplement_of(bob) is None
    holds(world)


def test_failed_guard_rails_pay_nothing_more(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    measured_again(world, 0.3, -0.2)
    row = Repricing.objects.get()
    assert row.state == RepricingState.UNCHANGED and "guard rails" in row.outcome
    assert supplement_of(bob) is None
    holds(world)


def test_a_reversed_gain_gives_its_supplement_back_too(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    measured_again(world, 0.3, 0.0)
    reverse(actor=world.mira, submission=find_submission(bob.pk), reason="it cheats")
    assert {award.state for award in bob.awards.all()} == {AwardState.REVERSED}
    assert ledger.balance(world.bob).available == 0
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == 100_000_000
    holds(world)


def test_a_maintainer_who_could_be_paid_more_does_not_decide(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    world.vested(world.bob, SECOND, 0.1)
    world.bob.role = "maintainer"
    world.bob.save()
    award = standing_award(slow)
    assert award is not None
    row = SlowBase.objects.create(run=slow.runs.get(kind=RunKind.GATE), award=award)
    with pytest.raises(NotAllowed, match="Another maintainer"):
        decide_slow_base(actor=world.bob, slow_base_id=row.pk, answer="slow", text="it is slow")


def test_an_unvested_slow_award_pays_those_after_it_too(world: World) -> None:
    """Nothing of Ann's is merged: her award is declined, and Bob's, measured against her tree, follows the tip."""
    slow = world.confirmed(world.ann, FIRST, 0.3)
    bob = world.submit(world.bob, SECOND, base_tree=slow.candidate_tree_id)
    world.gate(bob, 0.1)
    world.price(bob, 0.1)
    called_slow(world, slow)
    assert find_submission(slow.pk).state == "declined"
    settle()
    assert world.judge(0.3).base_tree_id == world.tree.pk
    settle()
    world.judge(0.0)
    settle()
    paid = supplement_of(bob)
    assert paid is not None
    assert amount_of(bob) + (paid.amount_microcredits or 0) == pytest.approx(0.3 * 20_000_000, rel=0.02)
    holds(world)


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_new_layout_ends_prices_that_can_no_longer_be_measured(is_guarded: bool, db: None) -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        slow = world.vested(world.ann, FIRST, 0.3)
        bob = world.vested(world.bob, SECOND, 0.1)
        called_slow(world, slow)
        settle()
        if is_guarded:
            world.judge(0.3)
            settle()
        assert unfinished_runs() == 1
    settle()
    row = Repricing.objects.get()
    assert row.state == RepricingState.UNCHANGED and "older layout" in row.outcome
    assert unfinished_runs() == 0 and supplement_of(bob) is None
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == 0
    holds(world)


def test_a_cancelled_measurement_pays_nothing_more(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    world.vested(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    settle()
    run = Repricing.objects.get().run
    assert run is not None
    cancel_run(actor=world.mira, run_id=run.pk, reason="the host is needed")
    settle()
    row = Repricing.objects.get()
    assert row.state == RepricingState.UNCHANGED and "cancelled" in row.outcome
    holds(world)


def test_nothing_is_paid_while_awards_are_stopped(world: World) -> None:
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    settle()
    world.judge(0.3)
    settle()
    world.judge(0.0)
    stop(actor=world.mira, switch="awards", reason="an audit")
    settle()
    assert supplement_of(bob) is None
    lift(actor=world.mira, switch="awards")
    settle()
    assert supplement_of(bob) is not None
    holds(world)


def test_a_new_price_is_no_fresh_draw_while_a_random_check_stays_one(world: World) -> None:
    """Pairs of the same candidate against the same tree are pooled with it, and earlier confirmations count."""
    slow = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.1)
    called_slow(world, slow)
    settle()
    run = Repricing.objects.get().run
    assert run is not None and run.submission == bob
    assert sets_price(run)
    Repricing.objects.update(run=None)
    assert not sets_price(run)
