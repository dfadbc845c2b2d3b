"""The worker is killed (SIGKILL, for real) at each step of royalties: the next one finishes it, and each day is paid once."""

import signal
from pathlib import Path

import pytest

from bounty.models import RoyaltyDay, RoyaltyPayment, RoyaltyTerm
from bounty.services.royalties.schedule import settle_royalties
from tests.bounty.services.royalties.royalty_world import RoyaltyWorld
from tests.bounty.services.test_killed_control import in_a_worker
from tests.gainshare.ledger.ledger_world import violations

pytestmark = pytest.mark.django_db(transaction=True)

SETTLE = (
    "import django; django.setup(); from bounty.services.royalties.schedule import settle_royalties; "
    "settle_royalties()"
)


@pytest.mark.parametrize("fault", ["royalties.terms_begun", "royalties.day_booked", "royalties.terms_ended"])
def test_a_killed_step_is_finished_once_by_the_next_worker(fault: str, tmp_path: Path) -> None:
    made = RoyaltyWorld()
    submission = made.gain(made.world.ann)
    made.earn(made.cem, 100_000)
    made.deploy(str(submission.candidate_tree_id), day=1, decode=200_000)
    made.ask(made.cem, day=2.5, tree=str(submission.candidate_tree_id), output=10_000)
    marks = tmp_path / "marks"
    if fault == "royalties.terms_ended":
        settle_royalties()
        made.reverse(submission)
    assert in_a_worker(SETTLE, fault=fault, marks=marks) == -signal.SIGKILL
    for _ in range(2):
        settle_royalties()
    assert RoyaltyTerm.objects.count() == 1
    assert RoyaltyDay.objects.filter(day=made.day(2)).count() == 1
    assert RoyaltyPayment.objects.count() == 1
    paid = RoyaltyPayment.objects.get().amount_microcredits
    assert made.royalties() == (0 if fault == "royalties.terms_ended" else paid)
    assert violations() == []
