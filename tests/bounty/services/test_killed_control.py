"""The control worker is killed (SIGKILL, for real) between its steps: one verdict and one award come out of it."""

import os
import signal
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.limits import ORDER_WAIT
from bounty.models import Award, OutOfOrder, Run, RunKind, RunVerdict
from bounty.services.awards.lifecycle import standing_award
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.forked_worker import run_forked

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(settings.ROOT)
RECONCILE = (
    "import django; django.setup(); from bounty.services.reconcile import reconcile_runs; reconcile_runs()"
)
MERGE = (
    "import sys, django; django.setup(); from bounty.services.merges import merge; "
    "from gainshare.accounts.models import User; "
    "merge(actor=User.objects.get(pk=sys.argv[1]), submission_id=sys.argv[2])"
)


def in_a_worker(program: str, *arguments: str, fault: str, marks: Path) -> int:
    """Run `program` in a process of its own on the test's database, with one armed fault; its exit status."""
    database = connection.settings_dict
    marks.mkdir(exist_ok=True)
    password = f":{quote(str(database['PASSWORD']), safe='')}" if database["PASSWORD"] else ""
    url = f"postgresql://{quote(str(database['USER']))}{password}@/{database['NAME']}?host={database['HOST']}"
    if database["PORT"]:
        url += f"&port={database['PORT']}"
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "gainshare.config.settings",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "GAINSHARE_BLOB_ROOT": str(settings.BLOB_ROOT),
        "BROKER_URL": "memory://",
        "GAINSHARE_RECHECK_PERCENT": "0",  # else one of ten gains would have another run
        "GAINSHARE_FAULT": fault,
        "GAINSHARE_FAULT_DIR": str(marks),
    }
    started = timezone.now()
    status, output = run_forked(program, *arguments, environment=environment, folder=ROOT)
    assert status in (0, -signal.SIGKILL), output
    _wait_for_transactions_since(started)
    return status


def _wait_for_transactions_since(started: datetime, seconds: float = 60) -> None:
    """PostgreSQL ends a killed worker's transaction, and its locks, a moment after the worker."""
    deadline = time.monotonic() + seconds
    while _has_transaction_since(started):
        assert time.monotonic() < deadline, "a killed worker's transaction did not end"
        time.sleep(0.02)


def _has_transaction_since(started: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "AND backend_start >= %s AND xact_start IS NOT NULL)",
            [started],
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize(
    ("fault", "at_run"),
    [
        ("control.gate_passed", 1),
        ("control.reserved", 1),
        ("control.confirmed", 2),
        ("control.guard_ordered", 2),
        ("control.guards_held", 3),
        ("control.award_booked", 3),
    ],
)
def test_a_killed_step_is_finished_by_the_next_worker(fault: str, at_run: int, tmp_path: Path) -> None:
    world = World()
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    for number in (1, 2, 3):  # gate, confirmation, guard rails
        world.judge(0.3)
        if number == at_run:
            assert in_a_worker(RECONCILE, fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
        assert reconcile_runs().failed == []
    submission = find_submission(submission.pk)
    award = standing_award(submission)
    assert (submission.state, Award.objects.count(), RunVerdict.objects.count()) == ("confirmed", 1, 3)
    assert Run.objects.count() == 3
    assert award is not None and ledger.balance(world.ann).unvested == award.amount_microcredits
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize("fault", ["control.merged", "control.vested"])
def test_a_killed_merge_vests_once(fault: str, tmp_path: Path) -> None:
    world = World()
    submission = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    arguments = (str(world.mira.pk), str(submission.pk))
    assert in_a_worker(MERGE, *arguments, fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
    assert in_a_worker(RECONCILE, fault=fault, marks=tmp_path / "marks") == 0
    submission = find_submission(submission.pk)
    award = standing_award(submission)
    assert award is not None
    assert (submission.state, award.state) == ("vested", "vested")
    assert ledger.balance(world.ann).available == award.amount_microcredits
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == submission.candidate_tree_id


@pytest.mark.parametrize(("fault", "at_step"), [("control.followed", 0), ("control.award_booked", 2)])
def test_a_killed_new_price_is_finished_once(fault: str, at_step: int, tmp_path: Path) -> None:
    world = World()
    first = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    second = world.confirmed(world.bob, diff_of_line(5, "step_5 = 55"))
    review(actor=world.ruth, submission_id=first.pk, decision="decline", comment="unreadable")
    for step in range(3):  # it follows, has its new price, has its guard rails
        if step == at_step:
            assert in_a_worker(RECONCILE, fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
        assert reconcile_runs().failed == []
        if step < 2:
            world.judge(0.2)
    second = find_submission(second.pk)
    award = standing_award(second)
    assert (second.state, second.base_tree_id) == ("confirmed", world.tree.pk)
    assert award is not None and second.awards.count() == 2
    assert ledger.balance(world.bob).unvested == award.amount_microcredits
    assert second.runs.filter(kind=RunKind.RECHECK).count() == 1
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize(
    "fault", ["control.comparison_ordered", "control.guards_held", "control.award_booked"]
)
def test_a_killed_comparison_is_made_once(fault: str, tmp_path: Path) -> None:
    """A nearly equal gain of another series: gate, price, comparison and guard rails, with a kill at one of the steps."""
    world = World()
    other = world.open(title="Other suite", suite="decode")
    world.confirmed(world.ann, diff_of_line(3, "step_3 = f(3)"))
    second = world.submit(
        world.bob, diff_of_line(3, "step_3 = f(3)\n+step_more = f(4)").replace("+3,1 @@", "+3,2 @@"), other
    )
    was_killed = 0
    for _ in range(4):
        world.judge(0.2)
        was_killed += in_a_worker(RECONCILE, fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
        assert reconcile_runs().failed == []
    assert was_killed == 1
    second = find_submission(second.pk)
    assert second.state == "confirmed"
    assert [run.kind for run in second.runs.order_by("queued_at")] == [
        "gate",
        "confirmation",
        "comparison",
        "guard",
    ]
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize("fault", ["control.guards_held", "control.award_booked"])
def test_a_killed_booking_out_of_order_is_booked_and_noted_once(fault: str, tmp_path: Path) -> None:
    """Bob has waited two hours for Ann, and the worker dies before or after it books him."""
    world = World()
    runner, _ = world.add_runner(generate_key())
    ann, bob = (
        world.submit(who, diff_of_line(line, f"step_{line} = 0"))
        for who, line in ((world.ann, 3), (world.bob, 7))
    )
    for run in (world.lease(), world.lease(runner)):
        world.commit(run)
        world.finish(run, 0.3)
    reconcile_runs()
    assert world.lease().submission_id == ann.pk
    for _ in range(2):
        run = world.lease(runner)
        world.commit(run)
        world.finish(run, 0.2)
        reconcile_runs()
    assert find_submission(bob.pk).state == "confirming"
    Run.objects.filter(submission=bob).update(finished_at=timezone.now() - ORDER_WAIT)
    assert in_a_worker(RECONCILE, fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
    assert reconcile_runs().failed == []
    award = standing_award(find_submission(bob.pk))
    assert award is not None and bob.awards.count() == 1
    assert ledger.balance(world.bob).unvested == award.amount_microcredits
    assert [(row.later_id, row.earlier_id) for row in OutOfOrder.objects.all()] == [(bob.pk, ann.pk)]
    assert [invariant.name for invariant in audit() if not invariant.holds] == []
