"""Which gains of a deployment share its saving on a line: what did not make it faster gets nothing of it."""

import pytest

from benchmarks.sharing.savings import MILLION, remaining_ppm
from gainshare.capacity.models import Deployment, DeploymentState
from tests.bounty.services.royalties.royalty_world import RoyaltyWorld

pytestmark = pytest.mark.django_db


@pytest.fixture
def made() -> RoyaltyWorld:
    return RoyaltyWorld()


def saved(log: int) -> int:
    return MILLION - remaining_ppm(log)


@pytest.mark.parametrize("suite", ["train_step", "moe_backward", "checkpoint_load", "time_to_loss"])
def test_a_gain_whose_suite_measures_no_line_takes_nothing_of_a_gain_that_does(
    made: RoyaltyWorld, suite: str
) -> None:
    """Whatever its log: it was merged into the same deployment, and saves nothing."""
    made.gain(made.world.ann, 0.2, "decode")
    made.gain(made.world.bob, 1.2, suite)
    [term] = made.noted(1, 100_000)
    assert (term.person, term.saving_ppm) == (made.world.ann, saved(100_000))


def test_a_saving_on_another_line_belongs_to_the_gains_that_measure_it(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann, 0.3, "decode")
    made.gain(made.world.bob, 0.3, "prefill")
    terms = made.noted(1, 100_000, lines={"prefill": 150_000})
    assert {(term.person, term.line, term.saving_ppm) for term in terms} == {
        (made.world.ann, "decode", saved(100_000)),
        (made.world.bob, "prefill", saved(150_000)),
    }


def test_a_kernel_of_the_forward_pass_counts_on_both_lines(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann, 0.3, "moe_forward")
    terms = made.noted(1, 100_000, lines={"prefill": 150_000})
    assert {term.line for term in terms} == {"decode", "prefill"}


def test_a_saving_that_no_new_gain_measures_belongs_to_those_that_measure_another_line(
    made: RoyaltyWorld,
) -> None:
    """A decode gain that also saves memory keeps that; a training gain does not."""
    made.gain(made.world.ann, 0.3, "decode")
    made.gain(made.world.bob, 1.2, "train_step")
    [term] = made.noted(1, 0, lines={"memory": 100_000})
    assert (term.person, term.line, term.saving_ppm) == (made.world.ann, "memory", saved(100_000))


def test_gains_that_measure_no_line_are_credited_with_nothing(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann, 1.2, "train_step")
    assert made.noted(1, 100_000) == []


def test_a_gain_is_credited_with_no_more_than_its_own_log_saves(made: RoyaltyWorld) -> None:
    """A push that no one measured lands with a small gain: its saving goes to the users."""
    made.push()
    gain = made.gain(made.world.ann, 0.03, "decode")
    [term] = made.noted(1, 300_000)
    award = gain.awards.get(role="gain")
    assert award.log_ppm_bound is not None
    assert term.saving_ppm == saved(award.log_ppm_bound) < saved(30_000)


def test_a_gain_that_saved_nothing_cannot_be_drawn_again_after_a_rollback(made: RoyaltyWorld) -> None:
    """Its canary would look like a saving once in 20 draws, so each new draw has another tree around it."""
    made.gain(made.world.ann, 0.3, "decode")
    assert made.noted(1, 0) == []
    for day in (2, 4, 6):
        assert made.serving is not None
        made.roll_back(made.serving, day=day)
        made.gain(made.world.ann, 0.3, "train_step")
        assert made.noted(day + 1, 60_000) == []


def test_nor_inside_of_another_tree(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann, 0.3, "decode")
    made.noted(1, 0, lines={"prefill": 80_000})
    assert made.serving is not None
    made.roll_back(made.serving, day=2)
    made.gain(made.world.bob, 0.3, "decode")
    terms = made.noted(3, 100_000, lines={"prefill": 80_000})
    assert (made.world.ann, "decode") not in {(term.person, term.line) for term in terms}
    assert (made.world.ann, "prefill") in {(term.person, term.line) for term in terms}


def test_a_deployment_that_was_not_clocked_says_nothing_of_a_gain(made: RoyaltyWorld) -> None:
    """A first deployment had nothing to be compared with: the first canary is the gain's first draw."""
    made.gain(made.world.ann, 0.3, "decode")
    first = made.deploy(made.world.lineage.tip_id, day=1, is_first=True)
    made.roll_back(first, day=2)
    made.gain(made.world.ann, 0.3, "train_step")
    [term] = made.noted(3, 60_000)
    assert term.saving_ppm == saved(60_000)


def test_a_gain_that_was_credited_does_not_lose_it_by_a_later_tree_that_saved_nothing(
    made: RoyaltyWorld,
) -> None:
    """Bob's useless tree contains Ann's gain as well, and is rolled back: hers was credited before."""
    made.gain(made.world.ann, 0.3, "decode")
    [term] = made.noted(1, 200_000)
    made.gain(made.world.bob, 0.3, "decode")
    assert made.noted(2, 0) == []
    assert made.serving is not None
    made.roll_back(made.serving, day=3)
    Deployment.objects.filter(pk=term.deployment_id).update(
        state=DeploymentState.ROLLED_BACK, ended_at=made.at(4)
    )
    again = made.noted(5, 200_000)
    assert [(each.person, each.saving_ppm) for each in again] == [(made.world.ann, again[0].saving_ppm)]
    assert 0 < again[0].saving_ppm <= term.saving_ppm
