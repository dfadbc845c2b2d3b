"""Evidence is accepted only if all checks pass; otherwise it is refused and the run is queued again."""

import copy
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, transaction

from benchmarks.evidence.canonical import parse
from benchmarks.evidence.commitment import commit
from benchmarks.evidence.document import digest, seal
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from bounty.errors import EvidenceConflict, EvidenceRefused, LeaseLost
from bounty.models import Evidence, Run, Runner, RunState, RunVerdict, StateChange
from bounty.services.awards.advance import advance_submission
from bounty.services.runners import calls as runner_calls
from bounty.services.runners.maintenance import set_runner_state
from bounty.services.trees import blob_store
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import SECRET, invented_document, invented_evidence

DIFF = diff_of_line(3, "step_3 = 33")


@pytest.fixture
def leased(world: World) -> Run:
    """Ann's gate run, leased and committed."""
    world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    run.refresh_from_db()
    return run


def test_good_evidence_is_recorded_once_and_stays_to_the_byte(world: World, leased: Run) -> None:
    sealed = invented_evidence(key=world.key, run=job_of(leased))
    verdict = world.record(leased, sealed)
    assert (verdict.kind, verdict.pairs) == ("gain", sealed["document"]["verdict"]["pairs"])
    assert verdict.log_ppm_estimate == sealed["document"]["verdict"]["log_ppm_estimate"] > 250_000
    leased.refresh_from_db()
    assert leased.state == RunState.FINISHED
    kept = parse(blob_store().get(leased.evidence.blob))
    assert kept == sealed
    assert verify_evidence(kept, trusted_keys={world.runner.key_id: world.runner.public_key}).ok


def test_the_same_evidence_again_gets_the_same_answer(world: World, leased: Run) -> None:
    sealed = invented_evidence(key=world.key, run=job_of(leased))
    first = world.record(leased, sealed)
    second = world.record(leased, sealed)
    assert first.pk == second.pk
    assert (RunVerdict.objects.count(), Evidence.objects.count()) == (1, 1)


def test_other_evidence_for_a_finished_run_is_refused(world: World, leased: Run) -> None:
    world.record(leased, invented_evidence(key=world.key, run=job_of(leased), speed_up_log=0.0))
    with pytest.raises(EvidenceConflict):
        world.record(leased, invented_evidence(key=world.key, run=job_of(leased), speed_up_log=0.9))
    assert RunVerdict.objects.get().kind == "no_gain"


def resealed(world: World, run: Run, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Evidence from a runner with the right key that changed its document before sealing it."""
    document = invented_document(run=job_of(run))
    change(document)
    return seal(document, world.key)


def wrong_key(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=generate_key(), run=job_of(run))


def key_of_another_runner(world: World, run: Run) -> dict[str, Any]:
    other = generate_key()
    world.add_runner(other)
    return invented_evidence(key=other, run=job_of(run))


def wrong_nonce(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "nonce": "0" * 64})


def other_run(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "id": str(uuid4())})


def other_kind(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "kind": "confirmation"})


def other_candidate(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "candidate_tree": "a" * 64})


def other_base(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "base_tree": "b" * 64})


def other_preset(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run={**job_of(run), "preset": "standard"})


def uncommitted_secret(world: World, run: Run) -> dict[str, Any]:
    return invented_evidence(key=world.key, run=job_of(run), secret=b"another secret of thirty-two byt")


def changed_sample(world: World, run: Run) -> dict[str, Any]:
    sealed = copy.deepcopy(invented_evidence(key=world.key, run=job_of(run)))
    sealed["document"]["pairs"][0]["calls"][0][1] += 1
    return sealed


def changed_sample_with_a_new_digest(world: World, run: Run) -> dict[str, Any]:
    sealed = changed_sample(world, run)
    sealed["digest"] = digest(sealed["document"])
    return sealed


def claimed_gain(world: World, run: Run) -> dict[str, Any]:
    document = invented_document(run=job_of(run), speed_up_log=0.0)
    document["verdict"] = invented_document(run=job_of(run), speed_up_log=0.3)["verdict"]
    return seal(document, world.key)


def larger_bound(world: World, run: Run) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["verdict"]["log_ppm_estimate"] += 1

    return resealed(world, run, change)


def weaker_sandbox_called_eligible(world: World, run: Run) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["sandbox"] = {"level": "none", "award_eligible": True}

    return resealed(world, run, change)


def other_judge(world: World, run: Run) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["harness"]["hash"] = "c" * 64

    return resealed(world, run, change)


def milder_limits(world: World, run: Run) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["suite"]["policy"]["minimum_effect_log_ppm"] = 1

    return resealed(world, run, change)


def not_evidence(world: World, run: Run) -> dict[str, Any]:
    return {"verdict": "gain"}


def not_even_an_object(world: World, run: Run) -> Any:
    return ["gain"]


FORGERIES = [
    wrong_key,
    key_of_another_runner,
    wrong_nonce,
    other_run,
    other_kind,
    other_candidate,
    other_base,
    other_preset,
    uncommitted_secret,
    changed_sample,
    changed_sample_with_a_new_digest,
    claimed_gain,
    larger_bound,
    weaker_sandbox_called_eligible,
    other_judge,
    milder_limits,
    not_evidence,
    not_even_an_object,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_forged_evidence_is_refused_and_the_run_is_queued_again(
    world: World, leased: Run, forge: Callable[[World, Run], dict[str, Any]]
) -> None:
    # The same call with nothing changed is accepted: see test_good_evidence_is_recorded_once_and_stays_to_the_byte.
    with pytest.raises(EvidenceRefused):
        world.record(leased, forge(world, leased))
    leased.refresh_from_db()
    assert leased.state == RunState.QUEUED
    assert not RunVerdict.objects.exists()
    reasons = StateChange.objects.filter(subject="run", new="lost").values_list("reason", flat=True)
    assert "evidence was refused" in reasons.get()


def test_evidence_without_a_commitment_is_refused(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    with pytest.raises(EvidenceRefused, match="commitment"):
        world.record(run, invented_evidence(key=world.key, run=job_of(run)))


def test_the_commitment_of_an_earlier_attempt_does_not_count(world: World, leased: Run) -> None:
    old = job_of(leased)
    assert leased.lease is not None
    runner_calls.report_failure(
        runner=world.runner, run_id=leased.pk, lease=leased.lease, code="oom", detail=""
    )
    again = world.lease()
    assert (again.pk, again.attempt) == (leased.pk, 2)
    assert again.nonce != old["nonce"]
    with pytest.raises(EvidenceRefused):
        world.record(again, invented_evidence(key=world.key, run=old))


def test_a_commitment_is_made_once_per_attempt(world: World, leased: Run) -> None:
    world.commit(leased)  # the same again
    with pytest.raises(runner_calls.CommitmentConflict):
        world.commit(leased, b"another secret of thirty-two byt")
    leased.refresh_from_db()
    assert leased.commitment == commit(SECRET, leased.nonce)


def test_evidence_under_a_lost_lease_is_refused(world: World, leased: Run) -> None:
    sealed = invented_evidence(key=world.key, run=job_of(leased))
    other, _ = world.add_runner(generate_key())
    assert leased.lease is not None
    with pytest.raises(LeaseLost):
        leased.lease = uuid4()
        world.record(leased, sealed)
    leased.refresh_from_db()
    with pytest.raises(LeaseLost):
        leased.runner = other
        world.record(leased, sealed)
    assert not RunVerdict.objects.exists()


def test_evidence_of_the_runners_own_failure_queues_the_run_again_at_most_twice(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    failed = [{"kind": "infrastructure_error", "detail": "the disk is full"}]
    for attempt in (1, 2, 3):
        run = world.lease()
        assert run.attempt == attempt
        world.commit(run)
        world.record(run, invented_evidence(key=world.key, run=job_of(run), events=failed))
        run.refresh_from_db()
        assert run.state == (RunState.FINISHED if attempt == 3 else RunState.QUEUED)
    submission = advance_submission(submission_id=submission.pk)
    assert submission.verdict_kind == "infrastructure_error"
    assert run.evidence.digest


def test_a_run_is_taken_from_a_runner_that_is_quarantined_while_it_judges(world: World, leased: Run) -> None:
    sealed = invented_evidence(key=world.key, run=job_of(leased))
    set_runner_state(actor=world.mira, name=world.runner.name, state="quarantined", reason="drifts")
    with pytest.raises(LeaseLost):
        world.record(leased, sealed)
    leased.refresh_from_db()
    assert (leased.state, leased.attempts_left) == (RunState.QUEUED, 3)
    assert not Evidence.objects.exists()


def test_evidence_that_comes_before_its_quarantined_runner_lost_the_run_earns_no_one_an_award(
    world: World, leased: Run
) -> None:
    # Between the quarantine's two steps: the runner is not trusted any more, the run is not taken back yet.
    Runner.objects.filter(pk=world.runner.pk).update(state="quarantined", quarantine_cause="maintainer")
    world.record(leased, invented_evidence(key=world.key, run=job_of(leased)))
    leased.refresh_from_db()
    assert leased.evidence.is_award_eligible is False
    assert leased.submission is not None
    assert advance_submission(submission_id=leased.submission.pk).awards.count() == 0


def test_the_database_refuses_to_change_evidence_verdicts_and_history(world: World, leased: Run) -> None:
    world.record(leased, invented_evidence(key=world.key, run=job_of(leased)))
    for change in (
        lambda: Evidence.objects.update(is_award_eligible=True),
        lambda: RunVerdict.objects.update(kind="no_gain"),
        lambda: StateChange.objects.update(reason="nothing happened"),
        lambda: Run.objects.filter(pk=leased.pk).update(state="queued"),
        lambda: Run.objects.filter(pk=leased.pk).update(nonce="0" * 64),
        lambda: RunVerdict.objects.filter(run=leased)._raw_delete("default"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_a_runner_has_no_second_run_while_it_holds_one(world: World, leased: Run) -> None:
    world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    waiting = Run.objects.get(state=RunState.QUEUED)
    with pytest.raises(DatabaseError), transaction.atomic():
        Run.objects.filter(pk=waiting.pk).update(
            state="leased",
            lease=uuid4(),
            lease_expires_at=leased.lease_expires_at,
            runner=Runner.objects.get(),
        )
