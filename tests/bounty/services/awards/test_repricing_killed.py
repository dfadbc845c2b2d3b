"""The control worker is killed (SIGKILL, for real) while it prices again after a slow base: each is paid once."""

import signal
from pathlib import Path

import pytest

from bounty.models import AwardRole, Repricing, Run, RunKind, SlowBase
from bounty.services.awards.lifecycle import standing_award
from bounty.services.reconcile import reconcile_runs
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, make_user
from tests.bounty.services.test_killed_control import RECONCILE, in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

DECIDE = (
    "import sys, django; django.setup(); from bounty.services.series.slow_bases import decide_slow_base; "
    "from gainshare.accounts.models import User; "
    "decide_slow_base(actor=User.objects.get(pk=sys.argv[1]), slow_base_id=sys.argv[2], answer='slow', text='slow')"
)


@pytest.mark.parametrize("is_beat_between", [True, False])
def test_killed_at_every_step_each_gain_is_paid_once(is_beat_between: bool, tmp_path: Path) -> None:
    world = World()
    slow = world.vested(world.ann, diff_of_line(3, "step_3 = 0"), 0.3)
    bob = world.vested(world.bob, diff_of_line(7, "step_7 = 0"), 0.1)
    cleo = make_user("cleo")
    last = world.vested(cleo, diff_of_line(11, "step_11 = 0"), 0.1)
    award = standing_award(slow)
    assert award is not None
    row = SlowBase.objects.create(run=slow.runs.get(kind=RunKind.GATE), award=award)
    arguments = (str(world.ruth.pk), str(row.pk))
    marks = tmp_path / "decided"
    killed = in_a_worker(DECIDE, *arguments, fault="control.slow_base_decided", marks=marks)
    assert killed == -signal.SIGKILL
    assert in_a_worker(DECIDE, *arguments, fault="control.slow_base_decided", marks=marks) == 0
    assert Repricing.objects.count() == 2
    was_killed = 0
    for step, speed_up in enumerate((0.2, 0.0, 0.2, 0.0, None)):  # price and guard rails, twice; then the end
        marks = tmp_path / f"step-{step}"
        was_killed += in_a_worker(RECONCILE, fault="control.repriced", marks=marks) == -signal.SIGKILL
        if is_beat_between or speed_up is None or not Run.objects.filter(state="queued").exists():
            assert reconcile_runs().failed == []
        if speed_up is not None:
            world.judge(speed_up)
    assert was_killed >= 3
    for who, submission in ((world.bob, bob), (cleo, last)):
        found = find_submission(submission.pk)
        paid = found.awards.get(role=AwardRole.SUPPLEMENT)
        own = standing_award(found)
        assert own is not None and own.amount_microcredits and paid.amount_microcredits
        assert ledger.balance(who).available == own.amount_microcredits + paid.amount_microcredits
        assert [run.kind for run in found.runs.order_by("queued_at")][3:] == ["recheck", "guard"]
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == 0
    assert [invariant.name for invariant in audit() if not invariant.holds] == []
