"""Losses of a lineage's gains in the suites that guard them: bounded for all together, not only for each."""

from bounty.models import Award, AwardState, RunKind, Submission
from bounty.services.awards.steps import verdict_of
from bounty.services.reviews import review
from bounty.services.runs.lineage_losses import MARGINS, overspent
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runs.test_rails import guard_evidence

LITTLE = {"decode/small": -0.024, "prefill/small": 0.0}  # the margin is 0.03


def gain_that_costs(world: World, number: int, cases: dict[str, float]) -> Submission:
    """A gain, through its guard run over these cases; accepted and merged where it was booked."""
    submission = world.submit(world.ann, diff_of_line(number, f"step_{number} = {number}0"))
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    run = world.lease()
    assert run.kind == RunKind.GUARD
    world.commit(run)
    world.record(run, guard_evidence(world, run, cases))
    world.advance(submission)
    return find_submission(submission.pk)


def test_gains_that_each_lose_a_little_may_not_lose_much_together(world: World) -> None:
    """The attack: trade other suites' speed for one suite's, a margin at a time."""
    submissions = []
    for number in range(1, 6):
        submissions.append(gain_that_costs(world, number, LITTLE))
        if submissions[-1].state != "confirmed":
            break
    *booked, last = submissions
    assert len(booked) == 3 and all(one.state == "confirmed" for one in booked)
    assert (last.state, last.verdict_kind) == ("judged", "regression")
    assert "losses of this lineage add up" in last.verdict_reason and "decode/small" in last.verdict_reason
    guard = last.runs.get(kind=RunKind.GUARD)
    verdict = verdict_of(guard)
    assert last.verdict_run == guard and verdict is not None and verdict.kind == "gain"  # its own rails hold
    award = Award.objects.get(submission=last)
    assert award.state == AwardState.VOID
    assert MARGINS * 30_000 >= 3 * 24_000


def test_a_gain_where_it_was_lost_makes_room_again(world: World) -> None:
    for number in (1, 2, 3):
        assert gain_that_costs(world, number, LITTLE).state == "confirmed"
    assert gain_that_costs(world, 4, {"decode/small": 0.05, "prefill/small": 0.0}).state == "confirmed"
    assert gain_that_costs(world, 5, LITTLE).state == "confirmed"


def test_gains_that_were_taken_back_do_not_count(world: World) -> None:
    *booked, last = [gain_that_costs(world, number, LITTLE) for number in (1, 2, 3, 4)]
    guard = last.runs.get(kind=RunKind.GUARD)
    found = overspent(submission=last, guard=guard)
    assert found is not None and found.rail == "decode/small"
    declined = review(actor=world.ruth, submission_id=booked[0].pk, decision="decline")
    assert Award.objects.get(submission=declined).state == AwardState.VOID
    assert overspent(submission=last, guard=guard) is None
