"""A renewal while others act: each submission ends once, the tip moves once, and the ledger is whole."""

import pytest

from bounty.models import Award, AwardState, StateChange
from bounty.services.awards.lifecycle import standing_award
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.renewal import renew_lineages
from bounty.services.reviews import review
from bounty.services.submissions import find_submission, withdraw
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.older_layout import OLD_MODULES, broken_invariants, older_version, unfinished_runs
from tests.bounty.services.test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def test_two_renewals_a_merge_a_withdrawal_and_beat_at_once() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        booked = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
        review(actor=world.ruth, submission_id=booked.pk, decision="accept")
        reserved = world.gate(world.submit(world.bob, diff_of_line(5, "step_5 = 55")), 0.3)
        passed = world.submit(world.ann, diff_of_line(7, "step_7 = 77"))
        world.judge(0.3)  # Bob's confirmation
        world.judge(0.3)  # the gate of the last one; no one has read either yet
    award = standing_award(booked)
    assert award is not None and award.amount_microcredits is not None
    at_once(
        [
            lambda: renew_lineages(actor=world.mira),
            lambda: renew_lineages(actor=world.ruth),
            lambda: merge(actor=world.mira, submission_id=booked.pk),
            lambda: withdraw(actor=world.bob, submission_id=reserved.pk),
            reconcile_runs,
        ]
    )
    reconcile_runs()
    assert renew_lineages(actor=world.mira).lineages == ()
    assert find_submission(booked.pk).state == "vested"
    assert find_submission(reserved.pk).state in ("withdrawn", "judged")
    assert find_submission(passed.pk).verdict_kind == "patch_rejected"
    assert StateChange.objects.filter(subject="lineage", reason__startswith="renewed").count() == 1
    assert Award.objects.exclude(state=AwardState.VOID).count() == 1
    assert ledger.balance(world.ann).available == award.amount_microcredits
    escrow = ledger.escrow_balance(world.bounty.escrow_reference)
    assert escrow.available == world.escrow - award.amount_microcredits
    assert unfinished_runs() == 0 and broken_invariants() == []
