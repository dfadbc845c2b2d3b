"""Leases: the holder of a run, lost runs, and the log across leases."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from benchmarks.evidence.signing import generate_key
from bounty.errors import LeaseLost, LogGap, NotLeasable
from bounty.limits import MAX_LOG_CHARS
from bounty.models import LogChunk, Run, Runner, RunState, RunVerdict, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.reconcile import reconcile_runs
from bounty.services.runners import calls as runner_calls
from bounty.services.runners.maintenance import set_runner_state
from bounty.services.runs.logs import append_log, submission_log
from bounty.services.runs.queues import queue_place
from bounty.services.submissions import withdraw
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.conftest import Outbox

DIFF = diff_of_line(3, "step_3 = 33")


def beat(run: Run, runner: Runner, stage: str = "gating", pairs: int = 0) -> runner_calls.Heartbeat:
    assert run.lease is not None
    return runner_calls.heartbeat(
        runner=runner, run_id=run.pk, lease=run.lease, stage=stage, pairs_done=pairs, pairs_max=48
    )


def write(run: Run, runner: Runner, offset: int, text: str) -> int:
    assert run.lease is not None
    return append_log(run_id=run.pk, lease=run.lease, runner_id=runner.pk, offset=offset, text=text)


def expire(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def test_nothing_to_do_is_not_leasable(world: World) -> None:
    with pytest.raises(NotLeasable):
        world.lease()


def test_a_leased_run_is_not_leased_again(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    other, _ = world.add_runner(generate_key())
    with pytest.raises(NotLeasable):
        world.lease(other)
    run.refresh_from_db()
    assert (run.state, run.runner_id, run.attempt) == (RunState.LEASED, world.runner.pk, 1)


def test_other_hardware_gets_other_runs(world: World) -> None:
    gpu = world.open(title="On a GPU", hardware="h100")
    world.submit(world.ann, DIFF, gpu)
    with pytest.raises(NotLeasable):
        world.lease()


def test_a_quarantined_runner_gets_no_work(world: World) -> None:
    world.submit(world.ann, DIFF)
    set_runner_state(actor=world.mira, name=world.runner.name, state="quarantined", reason="drifts")
    world.runner.refresh_from_db()
    with pytest.raises(NotLeasable):
        world.lease()


def test_people_take_turns(world: World) -> None:
    for line in (1, 2, 3):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    other = world.open(title="Another series", suite="decode")  # in one series, sealed order decides
    late = world.submit(world.bob, diff_of_line(4, "step_4 = 0"), other)
    place = queue_place(late.runs.get())
    assert place is not None and place.position == 1
    order = []
    for _ in range(4):
        run = world.judge(0.0)
        assert run.submission is not None
        order.append(run.submission.submitter_id)
    assert order == [world.ann.pk, world.bob.pk, world.ann.pk, world.ann.pk]


def test_heartbeats_move_the_run_on_and_never_back(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    for stage, pairs in (("preparing", 0), ("gating", 6), ("preparing", 2)):
        assert beat(run, world.runner, stage, pairs).cancel is False
    run.refresh_from_db()
    assert (run.state, run.pairs_done, run.pairs_max, run.was_sampled) == (RunState.GATING, 6, 48, True)


def test_a_heartbeat_under_a_wrong_lease_is_refused(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    run.lease = uuid4()
    with pytest.raises(LeaseLost):
        beat(run, world.runner)


def test_a_lost_lease_is_queued_again_with_its_reason_and_the_old_runner_is_refused(
    world: World, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    beat(run, world.runner, "gating", 7)
    expire(run)
    with django_capture_on_commit_callbacks(execute=True):
        repairs = reconcile_runs()
    assert (repairs.lost, repairs.failed) == (1, [])
    run = Run.objects.get(pk=run.pk)
    assert (run.state, run.attempt, run.pairs_done) == (RunState.QUEUED, 1, 0)
    assert outbox.of("benchmarks.worker.run_job") == [str(run.pk)]
    with pytest.raises(LeaseLost):
        beat(run, world.runner)
    other, _ = world.add_runner(generate_key())
    assert world.lease(other).attempt == 2
    submission.refresh_from_db()
    assert submission.state == SubmissionState.JUDGING
    assert "its lease ran out" in submission_log(submission=submission, offset=0).text


def test_after_three_lost_attempts_the_verdict_is_an_infrastructure_error(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    for _ in range(3):
        expire(world.lease())
        reconcile_runs()
    verdict = RunVerdict.objects.get()
    assert (verdict.kind, verdict.evidence) == ("infrastructure_error", None)
    assert "Submit again" in verdict.reason
    submission.refresh_from_db()
    assert (submission.state, submission.verdict_kind) == ("judged", "infrastructure_error")
    with pytest.raises(NotLeasable):
        world.lease()


def test_a_runner_that_asks_again_has_lost_what_it_held(world: World) -> None:
    world.submit(world.ann, DIFF)
    first = world.lease()
    again = world.lease()
    assert (again.pk, again.attempt) == (first.pk, 2)
    assert again.lease != first.lease
    with pytest.raises(LeaseLost):
        beat(first, world.runner)


def test_a_failure_reported_twice_counts_once(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    assert run.lease is not None
    for _ in range(2):
        runner_calls.report_failure(
            runner=world.runner, run_id=run.pk, lease=run.lease, code="no_space", detail="disk full"
        )
    run.refresh_from_db()
    assert (run.state, run.attempt) == (RunState.QUEUED, 1)


def test_a_withdrawn_submissions_runner_is_told_to_stop(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    assert beat(run, world.runner).cancel is False
    withdraw(actor=world.ann, submission_id=submission.pk)
    assert beat(run, world.runner).cancel is True
    with pytest.raises(NotLeasable):
        world.lease()


def test_a_confirmation_prefers_another_host_if_one_is_there(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    other, _ = world.add_runner(generate_key(), host="two")
    Runner.objects.filter(pk=other.pk).update(last_seen_at=timezone.now())
    with pytest.raises(NotLeasable):
        world.lease()
    assert world.lease(other).kind == "confirmation"


def test_a_confirmation_does_not_wait_for_another_host_for_ever(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    other, _ = world.add_runner(generate_key(), host="two")
    Runner.objects.filter(pk=other.pk).update(last_seen_at=timezone.now())
    Run.objects.filter(kind="confirmation").update(queued_at=timezone.now() - timedelta(minutes=3))
    assert world.lease().kind == "confirmation"


def test_a_log_is_written_once_however_often_it_is_sent(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    assert write(run, world.runner, 0, "one\n") == 4
    assert write(run, world.runner, 0, "one\n") == 4
    assert write(run, world.runner, 0, "one\ntwo\n") == 8
    with pytest.raises(LogGap, match="8"):
        write(run, world.runner, 9, "four\n")
    text = submission_log(submission=submission, offset=0).text
    assert text.count("one\n") == text.count("two\n") == 1


def test_a_log_continues_over_attempts_and_is_read_from_any_place(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    write(run, world.runner, 0, "first attempt é\n")
    expire(run)
    reconcile_runs()
    run = world.lease()
    write(run, world.runner, 0, "second attempt\n")
    whole = submission_log(submission=submission, offset=0)
    assert "first attempt é\n" in whole.text and whole.text.endswith("second attempt\n")
    assert whole.next_offset == len(whole.text)
    assert whole.is_final is False
    for offset in (0, 1, 5, whole.text.index("second"), len(whole.text), len(whole.text) + 5):
        page = submission_log(submission=submission, offset=offset)
        assert page.text == whole.text[offset:]


def test_the_log_is_final_with_the_verdict_and_covers_both_runs(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    assert (
        submission_log(submission=advance_submission(submission_id=submission.pk), offset=0).is_final is False
    )
    world.price(submission, 0.3)
    page = submission_log(submission=advance_submission(submission_id=submission.pk), offset=0)
    assert page.is_final is True
    assert page.text.index("gate run") < page.text.index("confirmation run")
    assert page.text.count("verdict gain") == 3


def test_a_log_is_bounded_and_says_so(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    offset, piece = 0, "x" * 250_000
    while offset < MAX_LOG_CHARS + 500_000:
        offset = write(run, world.runner, offset, piece)
    expire(run)
    reconcile_runs()
    kept = "".join(LogChunk.objects.filter(run=run).order_by("start").values_list("text", flat=True))
    assert len(kept) < MAX_LOG_CHARS + 1000
    assert kept.count("the rest was not kept") == 1
    assert kept.endswith("its lease ran out without a heartbeat\n")
    assert submission_log(submission=submission, offset=len(kept) - 10).text == kept[-10:]


def test_a_log_with_odd_characters_is_kept(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    assert write(run, world.runner, 0, "a\0b\ud800c\n") == 6
    assert submission_log(submission=submission, offset=0).text.endswith("a\ufffdb?c\n")
