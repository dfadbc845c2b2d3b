"""The control worker is killed (SIGKILL, for real) between the steps of a bug: it is paid once, to both."""

import signal
from pathlib import Path

import pytest

from bounty.models import Award, AwardState, BountyState, Reproduction, Run
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bug_world import AWARD, FIX, BugWorld
from tests.bounty.services.test_killed_control import MERGE, RECONCILE, in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

SHARE = AWARD * 3 // 10


def killed_once(fault: str, marks: Path, program: str = RECONCILE, *arguments: str) -> None:
    """Die at the fault point, then continue where the dead process stopped."""
    assert in_a_worker(program, *arguments, fault=fault, marks=marks) == -signal.SIGKILL
    assert in_a_worker(RECONCILE, fault=fault, marks=marks) == 0


def paid_once(world: BugWorld) -> None:
    awards = {(award.role, award.state): award.amount_microcredits for award in Award.objects.all()}
    assert awards == {
        ("fix", AwardState.VESTED): AWARD - SHARE,
        ("reproduction", AwardState.VESTED): SHARE,
    }
    assert (ledger.balance(world.ann).available, ledger.balance(world.bob).available) == (
        SHARE,
        AWARD - SHARE,
    )
    world.bug.refresh_from_db()
    assert world.bug.state == BountyState.CLOSED
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize("fault", ["control.reproduction_read", "control.adopted"])
def test_a_killed_reading_of_a_reproduction_makes_it_the_bountys_once(fault: str, tmp_path: Path) -> None:
    world = BugWorld()
    world.reproduce(world.ann)
    world.try_out()
    killed_once(fault, tmp_path / "marks")
    assert list(Reproduction.objects.values_list("state", flat=True)) == ["adopted"]
    assert Run.objects.count() == 1


@pytest.mark.parametrize(
    "fault",
    ["control.fix_passed", "control.fix_booked", "control.merged", "control.vested", "control.bug_paid"],
)
def test_a_killed_step_of_a_fix_pays_both_once(fault: str, tmp_path: Path) -> None:
    world = BugWorld()
    marks = tmp_path / "marks"
    world.adopted(world.ann)
    submission = world.submit(world.bob, FIX, world.bug)
    world.try_out()
    is_early = fault in ("control.fix_passed", "control.fix_booked")
    if is_early:
        killed_once(fault, marks)
    else:
        assert in_a_worker(RECONCILE, fault="control.nowhere", marks=marks) == 0
    assert find_submission(submission.pk).state == "confirmed" and Award.objects.count() == 2
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    arguments = (str(world.mira.pk), str(submission.pk))
    if is_early:
        assert in_a_worker(MERGE, *arguments, fault="control.nowhere", marks=marks) == 0
    else:
        killed_once(fault, marks, MERGE, *arguments)
    assert find_submission(submission.pk).state == "vested"
    paid_once(world)
