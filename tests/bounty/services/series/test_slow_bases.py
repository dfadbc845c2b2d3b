"""A base that lost what was paid for it: merges stop, a maintainer decides, its award comes back."""

import math

import pytest

from bounty.errors import BadRequest, EvidenceRefused, NotAllowed, WrongState
from bounty.models import AwardState, Evidence, Lineage, Run, RunKind, SlowBase, SlowBaseState, Submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.merges import merge, merge_waiting
from bounty.services.reviews import review
from bounty.services.runs.old_trees import stops_merges
from bounty.services.series.best import measured_base
from bounty.services.series.slow_bases import decide_slow_base, find_slow_base
from bounty.services.submissions import find_submission
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, job_of, make_user
from tests.bounty.synthetic import invented_evidence

FIRST, SECOND = diff_of_line(3, "step_3 = 33"), diff_of_line(7, "step_7 = 77")


def slow_from_a_date_on(world: World) -> tuple[Submission, Submission, SlowBase]:
    """Ann's merged gain of 0.3 nats is slow later; Bob's patch of a comment then looks 0.2 nats faster."""
    paid = world.vested(world.ann, FIRST)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    later = world.gate(later, 0.2, old_gain_log=-0.2)
    return find_submission(paid.pk), later, SlowBase.objects.get()


def test_a_confirmation_times_the_tree_that_base_was_priced_against(world: World) -> None:
    paid = world.vested(world.ann, FIRST)
    award = standing_award(paid)
    assert award is not None
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    gate = later.runs.get(kind=RunKind.GATE)
    run = world.lease()
    assert (gate.old, run.kind) == (None, RunKind.CONFIRMATION)
    assert run.old == {"tree": world.tree.pk, "paid_log_ppm": award.log_ppm_bound, "direct": True}
    world.commit(run)
    world.finish(run, 0.2)
    priced = world.guard(world.advance(later))
    assert priced.state == "confirmed"  # base kept its gain: nothing is stopped
    assert not SlowBase.objects.exists() and not stops_merges(lineage_id=world.lineage.pk)


def test_the_first_gain_of_a_series_has_no_old_tree(world: World) -> None:
    submission = world.confirmed(world.ann, FIRST)
    assert [run.old for run in submission.runs.all()] == [None, None, None]


def test_evidence_without_the_ordered_old_tree_is_refused(world: World) -> None:
    world.vested(world.ann, FIRST)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    run = world.lease()
    world.commit(run)
    without = {**job_of(run), "old": None}
    with pytest.raises(EvidenceRefused, match="old tree"):
        world.record(run, invented_evidence(key=world.key, run=without, speed_up_log=0.2))


def test_a_base_that_is_slow_from_a_date_on_earns_its_successor_nothing(world: World) -> None:
    _, later, row = slow_from_a_date_on(world)
    assert (later.state, later.verdict_kind) == ("judged", "suspicious")
    assert "Base has lost what was paid for it" in later.verdict_reason
    assert standing_award(later) is None
    assert row.run.verdict.log_ppm_bound == pytest.approx(0, abs=10_000)
    assert row.state == SlowBaseState.OPEN


def test_a_base_that_is_slow_next_to_one_patch_only_stops_merges_too(world: World) -> None:
    """Old pairs see a fast base. Bob's patch of a comment gives a sign, and base is slow next to it."""
    paid = world.vested(world.ann, FIRST)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    later = world.gate(later, 0.2, direct_gain_log=0.3)
    assert (later.state, later.verdict_kind) == ("judged", "suspicious")
    assert "Base was slower next to the patch than elsewhere" in later.verdict_reason
    assert standing_award(later) is None
    row = SlowBase.objects.get()
    award = standing_award(find_submission(paid.pk))
    assert row.award == award and row.run.submission == later
    assert row.award.submission.submitter == world.ann
    assert row.run.verdict.log_ppm_bound == pytest.approx(300_000, abs=10_000)  # over the tree before base
    assert stops_merges(lineage_id=world.lineage.pk)


def test_a_base_that_was_slow_next_to_a_patch_gives_its_award_back(world: World) -> None:
    paid = world.vested(world.ann, FIRST)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    world.gate(later, 0.2, direct_gain_log=0.3)
    decide_slow_base(
        actor=world.ruth, slow_base_id=SlowBase.objects.get().pk, answer="slow", text="it knows the patch"
    )
    assert find_submission(paid.pk).state == "reversed"
    assert not stops_merges(lineage_id=world.lineage.pk)
    assert world.advance(later).state == "queued"


def test_plots_have_no_pairs_about_base(world: World) -> None:
    world.vested(world.ann, FIRST)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    run = world.judge(0.2)
    assert run.old is not None
    samples = Evidence.objects.get(run=run).samples
    assert len(samples) == 48 + 24  # measured and control pairs; 16 old and 16 direct ones are left out
    assert max(abs(sample["log_ratio_ppb"]) for sample in samples) < 250_000_000


def test_a_slow_best_tree_is_found_although_the_tip_has_moved_past_it(world: World) -> None:
    """A merge from another suite hides the slow tree in the tip. The comparison with it times its old tree as well."""
    paid = world.vested(world.ann, FIRST)
    elsewhere = world.confirmed(world.ruth, diff_of_line(11, "step_11 = 0"), 0.2, world.open(suite="prefill"))
    review(actor=world.mira, submission_id=elsewhere.pk, decision="accept")
    merge(actor=world.mira, submission_id=elsewhere.pk)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    later = world.gate(later, 0.2)
    run = later.runs.get(kind=RunKind.COMPARISON)
    assert run.base_tree_id == paid.candidate_tree_id
    later = world.gate(later, 0.2, old_gain_log=-0.2)
    run.refresh_from_db()
    assert run.old is not None and run.old["tree"] == world.tree.pk
    assert (later.state, later.verdict_kind) == ("judged", "suspicious")
    assert standing_award(later) is None
    assert SlowBase.objects.get().run == run and stops_merges(lineage_id=world.lineage.pk)


def test_merges_of_the_lineage_wait_until_a_maintainer_decides(world: World) -> None:
    other = world.open(suite="prefill", preset="demo")
    ready = world.confirmed(world.bob, diff_of_line(11, "step_11 = 111"), bounty=other)
    paid = world.confirmed(world.ann, FIRST)
    later = world.submit(make_user("cleo"), SECOND)
    SlowBase.objects.create(run=later.runs.get(), award=standing_award(paid))
    review(actor=world.ruth, submission_id=ready.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=ready.pk).merged_at is None
    assert merge_waiting() == 0
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == world.tree.pk
    decide_slow_base(
        actor=world.ruth, slow_base_id=SlowBase.objects.get().pk, answer="kept", text="another host"
    )
    assert merge_waiting() == 1
    assert find_submission(ready.pk).merged_at is not None


def test_a_slow_base_gives_its_award_back_and_the_next_is_judged_against_the_tree_before(
    world: World,
) -> None:
    paid, later, row = slow_from_a_date_on(world)
    decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer="slow", text="it sleeps since Monday")
    assert find_submission(paid.pk).state == "reversed"
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == world.tree.pk  # the merge is undone
    again = world.advance(later)
    assert again.state == "queued"
    assert measured_base(bounty=world.bounty).pk == world.tree.pk
    run = world.lease()
    assert (run.kind, run.base_tree_id, run.old) == (RunKind.GATE, world.tree.pk, None)
    assert not stops_merges(lineage_id=world.lineage.pk)
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_an_unvested_award_of_a_slow_base_returns_to_escrow(world: World) -> None:
    paid = world.confirmed(world.ann, FIRST)
    later = world.submit(world.bob, SECOND, base_tree=paid.candidate_tree_id)
    world.gate(later, 0.2)
    world.gate(later, 0.2, old_gain_log=-0.2)
    row = SlowBase.objects.get()
    review(actor=world.ruth, submission_id=paid.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=paid.pk).merged_at is None  # nothing vests meanwhile
    decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer="slow", text="slow")
    assert find_submission(paid.pk).state == "declined"
    assert paid.awards.get().state == AwardState.VOID
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_base_that_kept_its_gain_is_not_compared_again(world: World) -> None:
    paid, later, row = slow_from_a_date_on(world)
    decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer="kept", text="the host was throttled")
    assert find_submission(paid.pk).state == "vested"
    world.gate(later, 0.2)
    run = world.lease()
    assert (run.kind, run.old) == (RunKind.CONFIRMATION, None)


def test_only_an_uninvolved_maintainer_decides_once_and_with_words(world: World) -> None:
    _, _, row = slow_from_a_date_on(world)
    with pytest.raises(NotAllowed, match="maintainer"):
        decide_slow_base(actor=make_user("dora"), slow_base_id=row.pk, answer="kept", text="no")
    world.bob.role = world.ann.role = "maintainer"
    world.bob.save()
    world.ann.save()
    for involved in (world.ann, world.bob):
        with pytest.raises(NotAllowed, match="Another maintainer"):
            decide_slow_base(actor=involved, slow_base_id=row.pk, answer="kept", text="no")
    for answer, text in (("maybe", "x"), ("kept", "  ")):
        with pytest.raises(BadRequest):
            decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer=answer, text=text)
    for _ in range(2):
        decide_slow_base(actor=world.ruth, slow_base_id=row.pk, answer="kept", text="it is fast")
    with pytest.raises(WrongState, match="already decided"):
        decide_slow_base(actor=world.mira, slow_base_id=row.pk, answer="slow", text="no")
    assert find_slow_base(row.pk).answer == "it is fast"


def test_the_paid_bound_is_what_base_is_held_to(world: World) -> None:
    """Half of what was paid is enough; a little less is not."""
    paid = world.vested(world.ann, FIRST)
    award = standing_award(paid)
    assert award is not None and award.log_ppm_bound is not None
    half = award.log_ppm_bound / 2e6
    assert math.isclose(2 * half, 0.3, abs_tol=0.01)
    later = world.submit(world.bob, SECOND)
    world.gate(later, 0.2)
    run: Run = world.judge(0.2, old_gain_log=half + 0.02)
    assert not SlowBase.objects.filter(run=run).exists()
