"""A nearly equal patch earns only what it adds: another person's in any series, the same person's in another series."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.limits import ORDER_WAIT
from bounty.models import Likeness, OutOfOrder, Run, RunKind, Runner, RunState, Submission
from bounty.models import SubmissionState as S
from bounty.services.awards.lifecycle import standing_award
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

HEAD = (
    "diff --git a/model/layers/moe/experts.py b/model/layers/moe/experts.py\n"
    "--- a/model/layers/moe/experts.py\n+++ b/model/layers/moe/experts.py\n"
)
ORIGINAL = (
    HEAD
    + "@@ -3,3 +3,3 @@\n-step_3 = 3\n-step_4 = 4\n-step_5 = 5\n+step_3 = f(3)\n+step_4 = f(4)\n+step_5 = f(5)\n"
)
LIKE_IT = ORIGINAL.replace("@@ -3,3 +3,3 @@", "@@ -3,3 +3,4 @@") + "+step_6_more = f(6)\n"
IN_OTHER_LAYOUT = ORIGINAL.replace("+step_4 = f(4)\n", "+step_4 = f( 4 )  # faster\n")
OTHER = diff_of_line(9, "step_9 = 99")


def bound_of(submission: Submission) -> int:
    award = standing_award(submission)
    assert award is not None and award.log_ppm_bound is not None
    return award.log_ppm_bound


def in_order() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def measured(world: World, submission: Submission, *speeds: float, runner: Runner | None = None) -> list[Run]:
    """Judge the submission's next runs with these speeds; other runs must not wait before it."""
    done = []
    for speed in speeds:
        run = world.lease(runner)
        assert run.submission_id == submission.pk
        world.commit(run)
        world.finish(run, speed)
        world.advance(submission)
        done.append(run)
    return done


def both_measured(world: World, *, added: float) -> list[Run]:
    """Judge all runs in the queue's order: each change gains 0.3 over base, and `added` over one that it nearly equals.

    The comparisons among them.
    """
    speeds = {RunKind.GATE: 0.3, RunKind.CONFIRMATION: 0.3, RunKind.COMPARISON: added, RunKind.GUARD: 0.0}
    compared = []
    while Run.objects.filter(state=RunState.QUEUED).exists():
        run = world.lease()
        world.commit(run)
        world.finish(run, speeds[RunKind(run.kind)])
        for submission in Submission.objects.order_by("sealed_at"):
            world.advance(submission)
        compared += [run] if run.kind == RunKind.COMPARISON else []
    return compared


def test_in_the_same_series_it_is_measured_against_the_confirmed_one(world: World) -> None:
    ann, bob = world.submit(world.ann, ORIGINAL), world.submit(world.bob, LIKE_IT)
    assert Likeness.objects.get().percent == 100  # of the smaller change
    measured(world, ann, 0.3, 0.3, 0.0)
    gate, price, _ = measured(world, bob, 0.3, 0.05, 0.0)
    assert gate.base_tree_id == world.tree.pk and price.base_tree_id == ann.candidate_tree_id
    bob = find_submission(bob.pk)
    assert bob.state == S.CONFIRMED and bound_of(bob) < 60_000
    assert f"Also compared with submission {ann.pk}: 100 %" in bob.verdict_reason
    page = Client().get(f"/submissions/{bob.pk}/").content.decode()
    assert "of the changed lines are the same; the price counts what this patch adds to it" in page
    assert "copy" not in bob.verdict_reason


def test_in_another_series_it_is_also_measured_against_the_confirmed_one(world: World) -> None:
    """The same change for another suite: faster than base by 30 %, and no faster than Ann's tree."""
    other = world.open(title="Other suite", suite="decode")
    ann = world.confirmed(world.ann, ORIGINAL)
    bob = world.submit(world.bob, LIKE_IT, other)
    measured(world, bob, 0.3, 0.3)
    run = bob.runs.get(state=RunState.QUEUED)
    assert (run.kind, run.judged_as, run.base_tree_id) == (
        RunKind.COMPARISON,
        "confirmation",
        ann.candidate_tree_id,
    )
    measured(world, bob, 0.0)
    bob = find_submission(bob.pk)
    assert (bob.state, bob.verdict_kind) == (S.JUDGED, "no_gain")
    assert f"Compared with submission {ann.pk}, of which 100 %" in bob.verdict_reason
    assert standing_award(bob) is None and in_order()


def test_in_another_series_it_earns_what_it_adds(world: World) -> None:
    other = world.open(title="Other suite", suite="decode")
    ann = world.confirmed(world.ann, ORIGINAL)
    bob = world.submit(world.bob, LIKE_IT, other)
    price, compared = measured(world, bob, 0.3, 0.3, 0.05)[1:]
    measured(world, bob, 0.0)
    bob = find_submission(bob.pk)
    award = standing_award(bob)
    assert award is not None and award.confirmation_run_id == price.pk
    assert (bob.state, bob.verdict_run_id) == (S.CONFIRMED, compared.pk)
    assert 0 < bound_of(bob) < 60_000
    assert f"Also compared with submission {ann.pk}" in bob.verdict_reason
    page = Client().get(f"/submissions/{bob.pk}/").content.decode()
    assert "Comparison" in page
    assert in_order()


def test_an_undecided_one_of_another_series_is_waited_for(world: World) -> None:
    """Bob's is measured first. Its price waits for Ann's, which it nearly equals, and then counts what it adds."""
    other = world.open(title="Other suite", suite="decode")
    second, _ = world.add_runner(generate_key())
    ann = world.submit(world.ann, ORIGINAL)
    bob = world.submit(world.bob, LIKE_IT, other)
    slow = world.lease()
    assert slow.submission_id == ann.pk
    measured(world, bob, 0.3, 0.3, 0.0, runner=second)
    assert find_submission(bob.pk).state == S.CONFIRMING
    told = Client().get(f"/api/v1/submissions/{bob.pk}/").json()["order"]
    assert told["sealed_earlier"] == []  # whom it resembles is no one's business yet
    world.commit(slow)
    world.finish(slow, 0.3)
    world.advance(ann)
    measured(world, ann, 0.3, 0.0)
    reconcile_runs()
    assert bob.runs.get(state=RunState.QUEUED).base_tree_id == ann.candidate_tree_id
    measured(world, bob, 0.0)
    assert find_submission(bob.pk).verdict_kind == "no_gain"


def test_the_earlier_one_earns_what_it_adds_to_a_later_one_that_was_booked_first(world: World) -> None:
    other = world.open(title="Other suite", suite="decode")
    second, _ = world.add_runner(generate_key())
    ann = world.submit(world.ann, ORIGINAL)
    bob = world.submit(world.bob, LIKE_IT, other)
    slow = world.lease()
    measured(world, bob, 0.3, 0.3, 0.0, runner=second)
    Run.objects.filter(submission=bob).update(finished_at=timezone.now() - ORDER_WAIT - timedelta(seconds=1))
    assert world.advance(bob).state == S.CONFIRMED
    assert not OutOfOrder.objects.exists()  # they are in two series
    world.commit(slow)
    world.finish(slow, 0.3)
    world.advance(ann)
    measured(world, ann, 0.3)
    compared = measured(world, ann, 0.0)[0]
    assert (compared.kind, compared.base_tree_id) == (RunKind.COMPARISON, bob.candidate_tree_id)
    assert find_submission(ann.pk).verdict_kind == "no_gain"
    assert find_submission(bob.pk).state == S.CONFIRMED


def test_ones_own_patches_of_one_series_and_different_ones_are_not_compared(world: World) -> None:
    world.submit(world.ann, ORIGINAL)
    world.submit(world.ann, LIKE_IT)
    world.submit(world.bob, OTHER)
    assert not Likeness.objects.exists()


@pytest.mark.parametrize("second", [ORIGINAL, IN_OTHER_LAYOUT], ids=["identical", "equal in form"])
def test_one_gain_of_one_person_is_paid_in_one_of_two_series(world: World, second: str) -> None:
    """The same change for two suites, both in flight: the one that is booked second adds nothing to the first."""
    other = world.open(title="Other suite", suite="decode")
    first, again = world.submit(world.ann, ORIGINAL), world.submit(world.ann, second, other)
    assert Likeness.objects.get().percent == 100
    compared = both_measured(world, added=0.0)
    assert [run.base_tree_id for run in compared] == ([] if second == ORIGINAL else [first.candidate_tree_id])
    again = find_submission(again.pk)
    assert (again.state, again.verdict_kind) == (S.JUDGED, "no_gain")
    assert str(first.pk) in again.verdict_reason
    assert find_submission(first.pk).state == S.CONFIRMED
    assert standing_award(again) is None and in_order()


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_a_gain_that_only_the_second_series_has_does_not_pay_the_same_change_again(
    world: World, who: str
) -> None:
    """Base is faster there, by a gain of the series that is not merged. Compared with the first tree, which lacks it, the
    same change would look as if it added that gain."""
    other = world.open(title="Other suite", suite="decode")
    world.confirmed(world.ruth, OTHER, 0.3, other)
    first = world.submit(world.ann, ORIGINAL)
    again = world.submit(
        world.ann if who == "ann" else world.bob, ORIGINAL if who == "ann" else LIKE_IT, other
    )
    compared = both_measured(world, added=0.0)
    assert first.candidate_tree_id not in [run.base_tree_id for run in compared]
    again = find_submission(again.pk)
    assert (again.state, again.verdict_kind) == (S.JUDGED, "no_gain")
    assert find_submission(first.pk).state == S.CONFIRMED and standing_award(again) is None


def test_ones_own_change_with_an_addition_earns_the_addition_in_another_series(world: World) -> None:
    other = world.open(title="Other suite", suite="decode")
    first, more = world.submit(world.ann, ORIGINAL), world.submit(world.ann, LIKE_IT, other)
    (compared,) = both_measured(world, added=0.05)
    assert (compared.submission_id, compared.base_tree_id) == (more.pk, first.candidate_tree_id)
    more = find_submission(more.pk)
    assert more.state == S.CONFIRMED and 0 < bound_of(more) < 60_000 < bound_of(find_submission(first.pk))


def test_ones_own_change_in_another_series_waits_for_the_earlier_one(world: World) -> None:
    other = world.open(title="Other suite", suite="decode")
    second, _ = world.add_runner(generate_key())
    first, again = world.submit(world.ann, ORIGINAL), world.submit(world.ann, ORIGINAL, other)
    slow = world.lease()
    assert slow.submission_id == first.pk
    measured(world, again, 0.3, 0.3, 0.0, runner=second)
    assert find_submission(again.pk).state == S.CONFIRMING
    world.commit(slow)
    world.finish(slow, 0.3)
    world.advance(first)
    measured(world, first, 0.3, 0.0)
    reconcile_runs()
    assert find_submission(again.pk).verdict_kind == "no_gain"


@pytest.mark.parametrize("times", [1, 2])
def test_a_comparison_is_ordered_once(world: World, times: int) -> None:
    other = world.open(title="Other suite", suite="decode")
    world.confirmed(world.ann, ORIGINAL)
    bob = world.submit(world.bob, LIKE_IT, other)
    measured(world, bob, 0.3, 0.3)
    for _ in range(times):
        world.advance(bob)
    assert bob.runs.filter(kind=RunKind.COMPARISON).count() == 1


def test_a_merge_from_another_suite_is_not_paid_to_the_next_submission(world: World) -> None:
    """Ann's merge made `decode` faster too. Ruth's patch does nothing: it is as fast as the tip, and the tip is faster
    than the best tree of its series. It must not pass a gate, and its base is the tip."""
    other = world.open(title="Other suite", suite="decode")
    best = world.confirmed(world.bob, OTHER, 0.2, other)
    review(actor=world.ruth, submission_id=best.pk, decision="accept")
    merge(actor=world.mira, submission_id=best.pk)
    ann = world.confirmed(world.ann, diff_of_line(1, "step_1 = 11"))
    review(actor=world.ruth, submission_id=ann.pk, decision="accept")
    merge(actor=world.mira, submission_id=ann.pk)
    nothing = world.submit(world.ruth, diff_of_line(12, "step_12 = 12 + 0"), other)
    run = nothing.runs.get()
    assert run.base_tree_id == ann.candidate_tree_id != best.candidate_tree_id


def test_a_merge_that_slowed_this_suite_down_is_not_paid_for_when_it_is_mended(world: World) -> None:
    """The tip is slower here than the best tree of the series. Mending that beats the tip, but not the best tree."""
    other = world.open(title="Other suite", suite="decode")
    best = world.confirmed(world.bob, OTHER, 0.2, other)
    review(actor=world.ruth, submission_id=best.pk, decision="accept")
    merge(actor=world.mira, submission_id=best.pk)
    ann = world.confirmed(world.ann, diff_of_line(1, "step_1 = 11"))
    review(actor=world.ruth, submission_id=ann.pk, decision="accept")
    merge(actor=world.mira, submission_id=ann.pk)
    mended = world.submit(world.ruth, diff_of_line(12, "step_12 = 12 + 0"), other)
    compared = measured(world, mended, 0.1, 0.1, 0.0)[2]
    assert (compared.kind, compared.base_tree_id) == (RunKind.COMPARISON, best.candidate_tree_id)
    mended = find_submission(mended.pk)
    assert (mended.state, mended.verdict_kind) == (S.JUDGED, "no_gain")
    assert "the best tree of the series, which was merged before the tip moved" in mended.verdict_reason
