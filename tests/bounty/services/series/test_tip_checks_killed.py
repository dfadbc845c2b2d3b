"""Beat is killed (SIGKILL, for real) right after it ordered a check: there is one, and it is ended once."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from bounty.models import Run, RunKind, SlowBase, Submission, TipCheck
from bounty.services.series.tip_checks import schedule_tip_checks
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

SCHEDULE = (
    "import django; django.setup(); from bounty.services.series.tip_checks import schedule_tip_checks; "
    "schedule_tip_checks()"
)


def test_a_killed_schedule_orders_each_check_once(tmp_path: Path) -> None:
    world = World()
    paid = world.vested(world.ann, diff_of_line(3, "step_3 = 0"), 0.3)
    Submission.objects.filter(pk=paid.pk).update(merged_at=timezone.now() - timedelta(days=2))
    for number in (1, 2):  # the check, and its repetition
        killed = in_a_worker(SCHEDULE, fault="control.tip_check_ordered", marks=tmp_path / str(number))
        assert killed == -signal.SIGKILL
        assert schedule_tip_checks() == []
        assert TipCheck.objects.count() == Run.objects.filter(kind=RunKind.TIP).count() == number
        world.judge(0.0)
    assert SlowBase.objects.get().award.submission_id == paid.pk
