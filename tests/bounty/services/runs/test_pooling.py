"""Pairs that were posted one by one: they count whatever becomes of their run, and no run is a second draw."""

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.evidence.pair_record import pair_record, seal_pair
from benchmarks.evidence.signing import generate_key
from bounty.errors import BountyError, EvidenceConflict, EvidenceRefused, LeaseLost
from bounty.models import MeasuredPair, QuarantineCause, Run, Runner, Submission
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.runners.calls import report_failure
from bounty.services.runs.lifecycle import lose_run
from bounty.services.runs.maintenance import cancel_run
from bounty.services.runs.pooling import continued_records, pairs_to_continue, post_pair
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import CALLS_PER_SIDE, invented_evidence, invented_pairs, invented_parts

DIFF = diff_of_line(3, "step_3 = 33")


def records(
    world: World, run: Run, speed_up_log: float, units: int, changed: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Signed records of so many pairs, as the runner of the leased run makes them."""
    parts = invented_parts(run=job_of(run)) | (changed or {})
    checks = {"outputs_checked": CALLS_PER_SIDE, "oracle_checked": 1}
    pairs = invented_pairs(speed_up_log, units=units, seed=7)
    return [seal_pair(pair_record(parts, pair, checks), world.key) for pair in pairs]


def post(run: Run, record: Any) -> MeasuredPair:
    assert run.lease is not None and run.runner is not None
    return post_pair(runner=run.runner, run_id=run.pk, lease=run.lease, sealed=record)


def measured(world: World, speed_up_log: float, units: int) -> tuple[Run, list[dict[str, Any]]]:
    """A leased run that has posted so many pairs, and has not ended."""
    run = world.lease()
    world.commit(run)
    posted = records(world, run, speed_up_log, units)
    for record in posted:
        post(run, record)
    return run, posted


def kind_of(submission: Submission) -> str:
    return find_submission(submission.pk).verdict_kind


def test_a_slow_run_that_was_lost_gives_no_second_draw(world: World) -> None:
    """The attack: end the runner whenever the pairs look bad, until a lucky run passes."""
    submission = world.submit(world.ann, DIFF)
    run, posted = measured(world, -0.3, 12)
    lose_run(run=run, reason="its runner disappeared")
    again = world.lease()
    assert again.pk == run.pk and again.attempt == 2
    assert again.continues == [record["digest"] for record in posted]
    assert continued_records(again) == posted
    world.commit(again)
    lucky = invented_evidence(key=world.key, run=job_of(again), speed_up_log=0.3)
    with pytest.raises(EvidenceRefused, match="earlier pairs"):
        world.record(again, lucky)
    again = world.lease()
    world.commit(again)
    pooled = invented_evidence(
        key=world.key, run=job_of(again), speed_up_log=0.3, continues=continued_records(again)
    )
    world.record(again, pooled)
    world.advance(submission)
    assert kind_of(submission) == "regression"


def test_a_cancelled_run_is_continued_too(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 6)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the disk is full")
    world.advance(submission)
    assert kind_of(submission) == "infrastructure_error"
    world.submit(world.ann, DIFF)  # the platform failed, so the same candidate may be sent again
    again = world.lease()
    assert again.pk != run.pk and again.continues == [record["digest"] for record in posted]


def test_the_same_code_in_another_form_is_continued(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 6)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the disk is full")
    world.advance(submission)
    other = world.submit(world.ann, diff_of_line(3, "step_3 = 33  # said in another way"))
    assert other.patch_digest != submission.patch_digest
    assert world.lease().continues == [record["digest"] for record in posted]


def test_a_dispute_is_no_second_draw_either(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 48)
    world.finish(run, 0.0)
    world.advance(submission)
    dispute = file_dispute(actor=world.ann, submission_id=submission.pk, text="It is faster at home.")
    answer_dispute(actor=world.mira, dispute_id=dispute.pk, answer="remeasure", text="Let us see.")
    assert world.lease().continues == [record["digest"] for record in posted]


def test_pairs_never_cross_people_bases_or_suites(world: World) -> None:
    world.submit(world.ann, DIFF)
    run, _ = measured(world, 0.0, 6)
    lose_run(run=run, reason="its runner disappeared")
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    leased = {world.lease().pk: Run.objects.get(pk=run.pk)}
    assert set(leased) == {run.pk}
    other = Run.objects.exclude(pk=run.pk).get()
    assert not pairs_to_continue(other).exists()
    for changed in ({"suite": "decode"}, {"preset": "standard"}, {"hardware": "gpu"}):
        copy = Run.objects.get(pk=run.pk)
        for name, value in changed.items():
            setattr(copy, name, value)
        assert not pairs_to_continue(copy).exists(), changed
    copy = Run.objects.get(pk=run.pk)
    copy.base_tree = copy.candidate_tree
    assert not pairs_to_continue(copy).exists()


def test_a_confirmation_continues_a_lost_one_and_a_random_check_stands_alone(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    run, posted = measured(world, 0.3, 10)
    assert run.kind == "confirmation"
    lose_run(run=run, reason="its runner disappeared")
    again = world.lease()
    assert again.continues == [record["digest"] for record in posted]
    check = Run(submission=find_submission(submission.pk), kind="recheck", candidate_tree=run.candidate_tree)
    check.base_tree, check.suite, check.preset, check.hardware = (
        run.base_tree,
        run.suite,
        run.preset,
        run.hardware,
    )
    assert check.submission is not None
    check.submission.state = "confirmed"
    assert not pairs_to_continue(check).exists()
    check.submission.state = "confirming"  # a maintainer had it measured again after a dispute
    assert pairs_to_continue(check).count() == len(posted)


def test_pairs_of_a_runner_in_quarantine_are_left_out(world: World) -> None:
    world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 6)
    ill = {"quarantine_cause": QuarantineCause.DRIFT, "state": "quarantined"}
    Runner.objects.filter(pk=world.runner.pk).update(**ill)
    assert not pairs_to_continue(run).exists()
    Runner.objects.filter(pk=world.runner.pk).update(quarantine_cause=QuarantineCause.NONE, state="active")
    assert pairs_to_continue(run).count() == len(posted)


def test_a_record_is_posted_once_and_again_without_harm(world: World) -> None:
    world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 2)
    before = MeasuredPair.objects.count()
    assert post(run, posted[0]).digest == posted[0]["digest"]
    assert MeasuredPair.objects.count() == before == len(posted)
    with pytest.raises(EvidenceConflict):
        post(run, records(world, run, 0.2, 2)[0])  # the same pair with better figures


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"run": {"id": "another", "kind": "gate", "nonce": "n"}}, "run"),
        ({"trees": {"base": "1" * 64, "candidate": "2" * 64}}, "trees"),
        ({"harness": {"hash": "3" * 64, "version": "1"}}, "judge"),
    ],
)
def test_the_record_of_another_attempt_is_refused(world: World, changed: dict[str, Any], wrong: str) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    with pytest.raises(EvidenceRefused, match=wrong):
        post(run, records(world, run, 0.0, 2, changed)[0])
    assert not MeasuredPair.objects.exists()


def test_a_record_of_another_key_or_without_a_commitment_is_refused(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    (record, *_) = records(world, run, 0.0, 2)
    with pytest.raises(EvidenceRefused, match="no commitment"):
        post(run, record)
    world.commit(run)
    forged = seal_pair(record["document"], generate_key())
    for bad in (forged, None, {"document": 1}, {**record, "digest": "sha256:" + "0" * 64}):
        with pytest.raises(EvidenceRefused):
            post(run, bad)
    post(run, record)
    lose_run(run=run, reason="its runner disappeared")
    with pytest.raises(LeaseLost):
        post(run, record)


def test_a_failed_report_keeps_what_was_posted(world: World) -> None:
    world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 3)
    assert run.lease is not None and run.runner is not None
    report_failure(runner=run.runner, run_id=run.pk, lease=run.lease, code="OSError", detail="disk")
    assert world.lease().continues == [record["digest"] for record in posted]


def test_posted_pairs_cannot_be_changed_or_removed(world: World) -> None:
    world.submit(world.ann, DIFF)
    run, posted = measured(world, 0.0, 1)
    for statement in ("UPDATE bounty_measuredpair SET index = 9", "DELETE FROM bounty_measuredpair"):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    assert MeasuredPair.objects.filter(run=run).count() == len(posted)


def test_errors_of_records_are_ones_that_the_api_answers() -> None:
    assert issubclass(EvidenceRefused, BountyError) and EvidenceRefused.status == 422
