"""Concurrent callers: each change happens once, and the second caller finds it done."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.db import connection

from benchmarks.evidence.signing import generate_key
from bounty.errors import BountyError
from bounty.models import Award, Run, RunState, RunVerdict, StateChange, Submission
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import reverse, standing_award
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.runs.verdicts import record_evidence
from bounty.services.submissions import find_submission, withdraw
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import invented_evidence

pytestmark = pytest.mark.django_db(transaction=True)

DIFF = diff_of_line(3, "step_3 = 33")


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run every action in its own thread and connection, started together; results, or the refusals raised."""
    start = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def call(place: int) -> None:
        try:
            start.wait(10)
            results[place] = actions[place]()
        except BaseException as error:
            results[place] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    unforeseen = [r for r in results if isinstance(r, BaseException) and not isinstance(r, BountyError)]
    assert unforeseen == []
    return results


def refusals(results: list[Any]) -> int:
    return sum(isinstance(result, BountyError) for result in results)


def test_of_two_confirmations_of_one_person_that_start_at_once_one_counts_the_other() -> None:
    """Else two forms of one patch would be two draws, and their author could end the worse one."""
    world = World()
    world.gate_all(
        0.3, world.submit(world.ann, DIFF), world.submit(world.ann, diff_of_line(5, "step_5 = 55"))
    )
    runners = [world.add_runner(generate_key())[0] for _ in range(2)]
    runs = at_once([lambda runner=runner: world.lease(runner) for runner in runners])
    assert {run.kind for run in runs} == {"confirmation"}
    counts = [run.earlier_confirmations for run in runs]
    assert counts.count(None) == 1 and {"count": 1, "lowest_log_ppm": None} in counts


def test_one_run_is_leased_to_one_of_many_runners() -> None:
    world = World()
    world.submit(world.ann, DIFF)
    runners = [world.add_runner(generate_key())[0] for _ in range(5)]
    results = at_once([lambda runner=runner: world.lease(runner) for runner in runners])
    assert refusals(results) == 4
    run = Run.objects.get()
    assert (run.state, run.attempt) == (RunState.LEASED, 1)
    assert StateChange.objects.filter(subject="run", new="leased").count() == 1


def test_evidence_posted_twice_at_once_gives_one_verdict() -> None:
    world = World()
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    run.refresh_from_db()
    lease = run.lease
    assert lease is not None
    sealed = invented_evidence(key=world.key, run=job_of(run))

    def post() -> Any:
        return record_evidence(runner=world.runner, run_id=run.pk, lease=lease, sealed=sealed)

    results = at_once([post] * 4)
    # Whoever lost the race finds the lease gone, and the recorded verdict when asking again.
    assert refusals(results) < 4
    assert post().pk == RunVerdict.objects.get().pk


def test_a_submission_advanced_by_many_workers_reserves_and_books_once() -> None:
    world = World()
    submission = world.submit(world.ann, DIFF)
    for _ in range(3):  # gate, confirmation, guard rails
        world.judge(0.3)
        at_once([lambda: advance_submission(submission_id=submission.pk)] * 4 + [reconcile_runs])
    award = Award.objects.get()
    assert award.state == "unvested"
    assert ledger.balance(world.ann).unvested == award.amount_microcredits
    assert Run.objects.count() == 3
    for new in ("judged", "confirming", "confirmed"):
        assert StateChange.objects.filter(subject="submission", new=new).count() == 1
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_one_of_two_identical_submissions_is_the_copy() -> None:
    world = World()
    results = at_once([lambda: world.submit(world.ann, DIFF), lambda: world.submit(world.bob, DIFF)])
    states = sorted(result.state for result in results)
    assert states == ["checked", "queued"]  # the copy waits and is decided with the other one
    assert Submission.objects.get(state="checked").copy_of == Submission.objects.get(state="queued")


def test_one_person_at_once_does_not_get_more_attempts() -> None:
    world = World(terms={"max_attempts": 2})
    results = at_once(
        [
            lambda line=line: world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
            for line in range(1, 6)
        ]
    )
    assert refusals(results) == 3
    assert Submission.objects.count() == 2


def test_two_reviewers_at_once_make_one_acceptance() -> None:
    world = World(terms={"min_reviewers": 2})
    submission = world.confirmed(world.ann, DIFF)
    results = at_once(
        [
            lambda who=who: review(actor=who, submission_id=submission.pk, decision="accept")
            for who in (world.mira, world.ruth)
        ]
    )
    assert refusals(results) == 0
    submission.refresh_from_db()
    assert submission.state == "accepted"


def test_accepting_and_declining_at_once_has_one_outcome() -> None:
    world = World()
    submission = world.confirmed(world.ann, DIFF)
    at_once(
        [
            lambda: review(actor=world.mira, submission_id=submission.pk, decision="accept"),
            lambda: review(actor=world.ruth, submission_id=submission.pk, decision="decline"),
        ]
    )
    submission.refresh_from_db()
    held = ledger.balance(world.ann).unvested
    # A decline after the acceptance still wins; an acceptance after the decline is refused.
    assert (submission.state, held) == ("declined", 0)


def test_merging_at_once_vests_once() -> None:
    world = World()
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    results = at_once([lambda: merge(actor=world.mira, submission_id=submission.pk)] * 4 + [reconcile_runs])
    assert refusals(results) == 0
    award = standing_award(submission)
    assert award is not None and award.state == "vested"
    assert ledger.balance(world.ann).available == award.amount_microcredits
    assert StateChange.objects.filter(subject="lineage", reason__startswith="merged").count() == 1


def test_withdrawing_while_it_is_being_booked_leaves_no_money_in_between() -> None:
    world = World()
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    world.judge(0.0)
    at_once(
        [
            lambda: advance_submission(submission_id=submission.pk),
            lambda: withdraw(actor=world.ann, submission_id=submission.pk),
        ]
    )
    submission.refresh_from_db()
    award = standing_award(submission)
    balance = ledger.balance(world.ann)
    if submission.state == "withdrawn":
        assert award is None
        assert balance.unvested == 0
        assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow
    else:
        assert submission.state == "confirmed"
        assert award is not None and balance.unvested == award.amount_microcredits
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_withdrawing_while_it_is_being_leased_never_locks_up() -> None:
    world = World()
    for number in range(1, 7):
        submission = world.submit(world.ann, diff_of_line(number, f"step_{number} = 0"))
        at_once(
            [
                lambda: withdraw(actor=world.ann, submission_id=submission.pk),  # noqa: B023 (joined below)
                world.lease,
            ]
        )
        submission.refresh_from_db()
        assert submission.state == "withdrawn"
        assert submission.runs.get().state == RunState.LOST


def test_reversing_while_others_are_booked_and_merged_never_locks_up() -> None:
    world = World()
    first = world.vested(world.ann, DIFF)
    other = world.open(title="Elsewhere", hardware="other")
    second = world.submit(world.bob, diff_of_line(7, "step_7 = 77"), other)
    world.runner.hardware = "other"
    world.runner.save()
    world.gate(second, 0.2)
    world.gate(second, 0.2)
    world.judge(0.0)
    at_once(
        [
            lambda: reverse(actor=world.mira, submission=find_submission(first.pk), reason="a cheat"),
            lambda: advance_submission(submission_id=second.pk),
            lambda: merge(actor=world.mira, submission_id=first.pk),
            reconcile_runs,
        ]
    )
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.state == "reversed"
    if second.state == "confirming":
        # The reversal came first and moved the tip back: the second is timed against that one now.
        assert second.runs.get(state="queued").base_tree_id == world.tree.pk
    else:
        assert second.state == "confirmed"
    assert ledger.balance(world.ann).available == 0
    assert [invariant.name for invariant in audit() if not invariant.holds] == []
