"""Merged trees are timed again on a schedule against the tree before them; two findings that agree stop merges."""

from datetime import timedelta

import pytest
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty import tasks
from bounty.errors import WrongState
from bounty.models import (
    Run,
    RunKind,
    RunnerState,
    RunState,
    SlowBase,
    SlowBaseState,
    Submission,
    TipCheck,
)
from bounty.services import emergency
from bounty.services.awards.lifecycle import reverse, standing_award
from bounty.services.runs.maintenance import cancel_run, rerun
from bounty.services.runs.old_trees import stops_merges
from bounty.services.series.slow_bases import decide_slow_base
from bounty.services.series.tip_checks import schedule_tip_checks
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, diff_of_line, make_user
from tests.bounty.services.series.test_base_stops import NEXT_TO_THE_PATCH, ON_ITS_OWN

FIRST, SECOND = diff_of_line(3, "step_3 = 0"), diff_of_line(7, "step_7 = 0")


def later(hours: float) -> None:
    """Let time pass: merges and checks move into the past."""
    by = timedelta(hours=hours)
    for row in Submission.objects.filter(merged_at__isnull=False):
        assert row.merged_at is not None
        Submission.objects.filter(pk=row.pk).update(merged_at=row.merged_at - by)
    for check in TipCheck.objects.all():
        TipCheck.objects.filter(pk=check.pk).update(created_at=check.created_at - by)


def checked(world: World, gain_log: float, **how: object) -> TipCheck:
    """A day later: order the check that is due, and post evidence of this gain over the tree before."""
    later(25)
    (check,) = schedule_tip_checks()
    world.judge(gain_log, **how)
    check.refresh_from_db()
    return check


def test_a_merged_tree_is_timed_against_the_tree_before_it_once_a_day(world: World) -> None:
    paid = world.vested(world.ann, FIRST, 0.3)
    later(23)
    assert schedule_tip_checks() == []
    later(2)
    (check,) = schedule_tip_checks()
    assert schedule_tip_checks() == []  # one at a time
    run = world.lease()
    assert (run.pk, run.kind, run.judged_as, run.submission) == (check.run_id, "tip", "confirmation", None)
    assert (run.base_tree_id, run.candidate_tree_id) == (world.tree.pk, paid.candidate_tree_id)
    assert run.old is None
    world.commit(run)
    world.finish(run, 0.3)
    check.refresh_from_db()
    assert check.outcome == "kept" and check.ended_at is not None
    assert schedule_tip_checks() == []
    later(25)
    assert len(schedule_tip_checks()) == 1


def test_what_was_not_merged_is_not_checked(world: World) -> None:
    world.confirmed(world.ann, FIRST, 0.3)
    later(100)
    assert schedule_tip_checks() == []


def test_a_check_disturbs_no_queued_work_and_needs_an_idle_runner(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    waiting = world.submit(world.bob, SECOND)
    later(100)
    assert schedule_tip_checks() == []
    run = world.lease()
    assert run.submission_id == waiting.pk
    assert schedule_tip_checks() == []  # the only runner is at work
    other, _ = world.add_runner(generate_key())
    other.state = RunnerState.DRAINED
    other.save()
    assert schedule_tip_checks() == []
    world.commit(run)
    world.finish(run, 0.0)
    world.advance(waiting)
    tasks.check_tips()
    assert Run.objects.filter(kind=RunKind.TIP, state=RunState.QUEUED).count() == 1


def test_one_finding_stops_nothing_and_orders_a_second_check_at_once(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    first = checked(world, 0.0)
    assert first.outcome == "slow" and not SlowBase.objects.exists()
    assert not stops_merges(lineage_id=world.lineage.pk)
    (second,) = schedule_tip_checks()
    assert second.repeats == first and second.run.avoid_host == world.runner.host
    world.judge(0.3)
    second.refresh_from_db()
    assert second.outcome == "kept"
    assert schedule_tip_checks() == [] and not SlowBase.objects.exists()
    assert checked(world, 0.0).repeats is None  # the next finding needs its own second check
    assert not SlowBase.objects.exists()


def test_two_findings_that_agree_stop_merges_until_a_maintainer_decides(world: World) -> None:
    paid = world.vested(world.ann, FIRST, 0.3)
    checked(world, 0.0)
    (second,) = schedule_tip_checks()
    world.judge(0.1)
    finding = SlowBase.objects.get()
    assert (finding.run_id, finding.award, finding.state) == (second.run_id, standing_award(paid), "open")
    assert stops_merges(lineage_id=world.lineage.pk)
    later(100)
    assert schedule_tip_checks() == []  # a maintainer decides first
    decide_slow_base(actor=world.ruth, slow_base_id=finding.pk, answer="slow", text="it sleeps")
    assert find_submission(paid.pk).state == "reversed"
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == world.tree.pk
    assert schedule_tip_checks() == []


def test_half_of_what_was_paid_is_enough(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    assert checked(world, 0.17).outcome == "kept"
    assert checked(world, 0.13).outcome == "slow"


def test_a_tree_that_was_decided_to_have_kept_its_gain_is_not_checked_again(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    checked(world, 0.0)
    schedule_tip_checks()
    world.judge(0.0)
    finding = SlowBase.objects.get()
    decide_slow_base(actor=world.ruth, slow_base_id=finding.pk, answer="kept", text="a throttled host")
    assert SlowBase.objects.get().state == SlowBaseState.KEPT
    later(100)
    assert schedule_tip_checks() == []


def test_the_merged_gains_of_a_series_take_turns(world: World) -> None:
    """A later merge hides an earlier slow tree from confirmations, which time the newest award's old tree only."""
    ann = world.vested(world.ann, FIRST, 0.3)
    bob = world.vested(world.bob, SECOND, 0.2)
    seen = []
    for gain in (0.2, 0.3, 0.2):
        check = checked(world, gain)
        seen.append(check.award.submission_id)
        assert check.outcome == "kept"
    assert seen == [bob.pk, ann.pk, bob.pk]
    first, second = TipCheck.objects.all()[:2]
    assert first.run.base_tree_id == second.run.candidate_tree_id == ann.candidate_tree_id


def test_each_series_has_its_own_check(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    other = world.open(suite="prefill")
    submission = world.confirmed(world.bob, SECOND, 0.2, other)
    Submission.objects.filter(pk=submission.pk).update(merged_at=timezone.now())
    later(25)
    assert [check.run.suite for check in schedule_tip_checks()] == ["prefill"]  # then work waits
    world.judge(0.2)
    assert [check.run.suite for check in schedule_tip_checks()] == ["moe_forward"]


def test_a_check_without_figures_that_count_finds_nothing(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    untrusted = checked(world, 0.0, level="none")
    assert untrusted.outcome == "unclear"
    later(25)
    (check,) = schedule_tip_checks()
    cancel_run(actor=world.mira, run_id=check.run_id, reason="the host is needed")
    assert schedule_tip_checks() == []
    check.refresh_from_db()
    assert check.outcome == "unclear"
    with pytest.raises(WrongState, match="not ordered by hand"):
        rerun(actor=world.mira, run_id=check.run_id, reason="again")
    check = checked(world, 0.0, **ON_ITS_OWN)  # the tree before it fails by itself
    assert check.outcome == "open" and check.run.state == RunState.QUEUED, "measured again"
    assert not SlowBase.objects.exists()


def test_a_tree_that_fails_in_its_checks_does_not_escape_them(world: World) -> None:
    """It may know a check by the absence of a sign from its author's other trees, and end it before it is found slow."""
    world.vested(world.ann, FIRST, 0.3)
    crash = {"kind": "crash", "side": "candidate", "stage": "call", "detail": "it ended"}
    first = checked(world, 0.0, events=[crash])
    assert first.outcome == "failed" and not stops_merges(lineage_id=world.lineage.pk)
    (second,) = schedule_tip_checks()
    assert second.repeats == first, "at once, as after a slow one"
    world.judge(0.0, events=[crash])
    assert schedule_tip_checks() == [] and stops_merges(lineage_id=world.lineage.pk)
    found = SlowBase.objects.get()
    assert found.run_id == second.run_id
    decide_slow_base(actor=world.mira, slow_base_id=found.pk, answer="slow", text="it ends itself in checks")
    assert not stops_merges(lineage_id=world.lineage.pk)


def test_a_tree_that_makes_the_one_before_it_fail_has_failed(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    assert checked(world, 0.0, **NEXT_TO_THE_PATCH).outcome == "failed"


def test_a_slow_one_and_a_failed_one_agree(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    checked(world, 0.0)
    schedule_tip_checks()
    hang = {"kind": "timeout", "side": "candidate", "stage": "call", "detail": "it did not answer"}
    world.judge(0.0, events=[hang])
    assert SlowBase.objects.get().state == SlowBaseState.OPEN


def test_a_second_check_without_figures_is_repeated_the_next_day(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    first = checked(world, 0.0)
    (second,) = schedule_tip_checks()
    cancel_run(actor=world.mira, run_id=second.run_id, reason="the host is needed")
    assert schedule_tip_checks() == []
    third = checked(world, 0.0)
    assert third.repeats == first and SlowBase.objects.get().run_id == third.run_id


def test_nothing_is_ordered_while_judging_or_the_lineage_is_stopped(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    later(25)
    emergency.stop(actor=world.mira, switch="judging", reason="moving house")
    assert schedule_tip_checks() == []
    emergency.lift(actor=world.mira, switch="judging")
    assert len(schedule_tip_checks()) == 1


def test_a_gain_that_was_taken_back_is_not_checked(world: World) -> None:
    paid = world.vested(make_user("cleo"), FIRST, 0.3)
    reverse(actor=world.mira, submission=find_submission(paid.pk), reason="it cheats")
    later(100)
    assert schedule_tip_checks() == []
