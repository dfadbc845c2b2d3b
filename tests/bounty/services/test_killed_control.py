"""The control worker is killed (SIGKILL, for real) between its steps: one verdict and one award come out of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection

from bounty.models import Award, Run, RunKind, RunVerdict
from bounty.services.awards import standing_award
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

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
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


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
