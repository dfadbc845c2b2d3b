"""What a log tells its author while the submission is judged: nothing of later runs, and no count of what code printed."""

import pytest

from bounty.models import NextStep, Run, RunState, Submission
from bounty.services.reconcile import reconcile_runs
from bounty.services.runners.calls import heartbeat
from bounty.services.runs.logs import LogPage, append_log, read_log, submission_log
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runs.test_leases import expire

DIFF = diff_of_line(3, "step_3 = 33")


def prints(run: Run, text: str, offset: int = 0) -> int:
    assert run.lease is not None and run.runner_id is not None
    return append_log(run_id=run.pk, lease=run.lease, runner_id=run.runner_id, offset=offset, text=text)


def sealed(submission: Submission, offset: int = 0) -> LogPage:
    """The log as its author reads it before the decision."""
    return submission_log(submission=find_submission(submission.pk), offset=offset, with_sealed=False)


@pytest.mark.parametrize("n_chars", [0, 1, 17, 30_000])
def test_no_offset_counts_what_the_patch_printed(world: World, n_chars: int) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    before = sealed(submission)
    prints(run, "x" * n_chars)
    page = sealed(submission)
    assert page == before and page.next_offset == len(page.text) > 0
    assert sealed(submission, page.next_offset) == LogPage(page.next_offset, page.next_offset, "", False)
    assert sealed(submission, 10_000).next_offset == 10_000
    one = read_log(runs=Run.objects.filter(pk=run.pk), offset=0, with_sealed=False)
    assert one.next_offset == len(one.text) and not one.is_final


@pytest.mark.parametrize("is_printed", [True, False])
def test_a_reader_who_continues_after_the_decision_loses_and_repeats_nothing(
    world: World, is_printed: bool
) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    read = sealed(submission).text
    if is_printed:
        prints(run, "first attempt\n")
    expire(run)
    reconcile_runs()
    run = world.lease()
    prints(run, "second attempt\n")
    read += sealed(submission, len(read)).text
    world.commit(run)
    world.finish(run, 0.0)
    world.advance(submission)
    read += sealed(submission, len(read)).text
    whole = submission_log(submission=find_submission(submission.pk), offset=0)
    rest = submission_log(submission=find_submission(submission.pk), offset=len(read))
    assert read + rest.text == whole.text and whole.is_final
    assert "second attempt" in rest.text


def test_the_log_does_not_tell_that_a_gate_has_passed(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    before = None
    for _ in range(3):  # gate, confirmation, guard rails
        assert world.lease().submission_id == submission.pk
        run = submission.runs.get(state=RunState.LEASED)
        assert run.lease is not None
        heartbeat(
            runner=world.runner, run_id=run.pk, lease=run.lease, stage="preparing", pairs_done=0, pairs_max=0
        )
        page = sealed(submission)
        assert before is None or page == before
        assert page.text.count("leased by") == 1 and not page.is_final
        before = page
        run.refresh_from_db()
        world.commit(run)
        world.finish(run, 0.3 if run.kind != "guard" else 0.0)
        world.advance(submission)
    text = submission_log(submission=find_submission(submission.pk), offset=0).text
    assert text.count("leased by") == 3 and "confirmation run" in text and "guard run" in text


def test_a_run_that_is_pointed_at_other_trees_after_its_gate_says_so_sealed(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    waiting = submission.runs.get(state=RunState.QUEUED)
    assert set(waiting.log_chunks.values_list("is_sealed", flat=True)) == {True}
    gate = submission.runs.get(kind="gate")
    assert gate.log_chunks.filter(is_sealed=False).exists()


def test_waiting_for_escrow_does_not_make_the_log_final(world: World) -> None:
    small = world.open(title="Enough for one", escrow_microcredits=1_000_000)
    first = world.submit(world.ann, DIFF, small)
    second = world.submit(world.bob, diff_of_line(5, "step_5 = 55"), small)
    _, second = world.gate_all(0.3, first, second)
    assert second.next_step == NextStep.AWAIT_ESCROW and not sealed(second).is_final
