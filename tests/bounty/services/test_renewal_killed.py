"""A renewal is killed (SIGKILL, for real) between its steps: the next one finishes it, and nothing happens twice."""

import signal
from pathlib import Path

import pytest

from bounty.models import Lineage, ReproductionState, RunVerdict, StateChange
from bounty.services.awards.lifecycle import standing_award
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.renewal import renew_lineages
from bounty.services.reviews import review
from bounty.services.submissions import attempts_used, find_submission
from bounty.services.trees import create_lineage
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.bug_world import BugWorld
from tests.bounty.older_layout import OLD_MODULES, broken_invariants, older_version, unfinished_runs
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

RENEW = (
    "import sys, django; django.setup(); from bounty.services.renewal import renew_lineages; "
    "from gainshare.accounts.models import User; renew_lineages(actor=User.objects.get(pk=sys.argv[1]))"
)


@pytest.mark.parametrize("is_beat_between", [True, False])
@pytest.mark.parametrize(
    "fault",
    ["control.renewal_submission_done", "control.renewal_reproduction_ended", "control.lineage_renewed"],
)
def test_a_killed_renewal_is_finished_by_the_next(fault: str, is_beat_between: bool, tmp_path: Path) -> None:
    with older_version():
        world = BugWorld(modules=OLD_MODULES)
        create_lineage(actor=world.mira, name="zz-last", base_tree=world.tree.pk)
        booked = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
        first = world.gate(world.submit(world.ann, diff_of_line(5, "step_5 = 55")), 0.3)
        second = world.submit(world.bob, diff_of_line(7, "step_7 = 77"))
        waiting = world.reproduce(world.ann)
    award = standing_award(booked)
    assert award is not None and award.amount_microcredits is not None
    assert in_a_worker(RENEW, str(world.mira.pk), fault=fault, marks=tmp_path / "marks") == -signal.SIGKILL
    if is_beat_between:
        assert reconcile_runs().failed == []
    done = renew_lineages(actor=world.mira)
    assert renew_lineages(actor=world.mira).lineages == ()
    for submission in (first, second):
        submission = find_submission(submission.pk)
        assert (submission.state, submission.verdict_kind) == ("judged", "patch_rejected")
        ends = StateChange.objects.filter(
            subject="submission", subject_id=str(submission.pk), reason__contains="moved modules"
        )
        assert ends.count() == 1
    assert attempts_used(bounty=world.bounty, person=world.bob) == 0
    waiting.refresh_from_db()
    assert (waiting.state, waiting.verdict_kind) == (ReproductionState.REFUSED, "infrastructure_error")
    assert RunVerdict.objects.filter(run__reproduction=waiting).count() == 1
    assert set(Lineage.objects.values_list("tip", "origin")) == {(done.shipped_tree, done.shipped_tree)}
    assert StateChange.objects.filter(subject="lineage", reason__startswith="renewed").count() == 2
    escrow = ledger.escrow_balance(world.bounty.escrow_reference)
    assert escrow.available == world.escrow - award.amount_microcredits
    assert unfinished_runs() == 0 and broken_invariants() == []
    review(actor=world.ruth, submission_id=booked.pk, decision="accept")
    merge(actor=world.mira, submission_id=booked.pk)
    assert ledger.balance(world.ann).available == award.amount_microcredits
    assert broken_invariants() == []
