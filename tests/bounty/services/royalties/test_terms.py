"""Whose gain a deployment's saving is, for how long, and what ends it."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.sharing.savings import MILLION, remaining_ppm
from bounty.models import EndedBy, RoyaltyTerm
from bounty.services.royalties.laws import set_law
from bounty.services.royalties.terms import note_deployment, settle_terms
from gainshare.capacity.models import Deployment, DeploymentState
from tests.bounty.services.royalties.royalty_world import RoyaltyWorld

pytestmark = pytest.mark.django_db


@pytest.fixture
def made() -> RoyaltyWorld:
    return RoyaltyWorld()


def test_one_gain_is_credited_with_the_whole_saving_for_the_laws_time(made: RoyaltyWorld) -> None:
    submission = made.gain(made.world.ann)
    [term] = made.noted(1, 200_000)
    assert (term.submission, term.person, term.line) == (submission, made.world.ann, "decode")
    assert term.saving_ppm == MILLION - remaining_ppm(200_000)
    assert (term.share_ppm, term.starts_at) == (300_000, made.at(1))
    assert term.ends_at == made.at(1) + timedelta(days=90)


def test_noting_again_changes_nothing(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann)
    terms = made.noted(1, 200_000)
    assert note_deployment(terms[0].deployment_id) == terms
    assert RoyaltyTerm.objects.count() == 1


def test_gains_of_one_deployment_share_its_saving_by_their_logs(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann, 0.4)
    made.gain(made.world.bob, 0.2)
    first, second = made.noted(1, 300_000)
    whole = MILLION - remaining_ppm(300_000)
    assert (first.person, second.person) == (made.world.ann, made.world.bob)
    assert whole - 2 <= first.saving_ppm + second.saving_ppm <= whole
    assert 1.5 < first.saving_ppm / second.saving_ppm < 3


def test_a_later_gain_gets_what_it_adds(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann)
    [first] = made.noted(1, 200_000)
    made.gain(made.world.bob)
    [second] = made.noted(2, 100_000)
    assert second.person == made.world.bob
    assert first.saving_ppm + second.saving_ppm == MILLION - remaining_ppm(300_000)


def test_a_gain_that_saved_nothing_when_it_was_served_has_no_part_in_what_comes_later(
    made: RoyaltyWorld,
) -> None:
    made.gain(made.world.ann, 0.5)
    assert made.noted(1, 0) == []
    made.gain(made.world.bob, 0.2)
    [term] = made.noted(2, 100_000)
    assert term.person == made.world.bob and term.saving_ppm == MILLION - remaining_ppm(100_000)


def test_a_tree_without_a_merged_gain_credits_no_one(made: RoyaltyWorld) -> None:
    assert note_deployment(made.deploy("f" * 64, day=1, decode=100_000).pk) == []


@pytest.mark.parametrize(
    "state", [DeploymentState.REQUESTED, DeploymentState.REFUSED, DeploymentState.FAILED]
)
def test_a_deployment_that_never_served_credits_no_one(made: RoyaltyWorld, state: DeploymentState) -> None:
    made.gain(made.world.ann)
    deployment = made.deploy(made.world.lineage.tip_id, day=1, decode=100_000)
    Deployment.objects.filter(pk=deployment.pk).update(state=state, serving_at=None)
    assert note_deployment(deployment.pk) == []


def test_a_first_deployment_and_a_rollback_credit_no_one(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann)
    assert made.noted(1, 0, is_rollback=True) == []
    Deployment.objects.update(is_first=True)
    assert note_deployment(Deployment.objects.latest("serving_at").pk) == []


def test_a_rollback_ends_the_terms_when_it_came(made: RoyaltyWorld) -> None:
    made.gain(made.world.ann)
    [term] = made.noted(1, 200_000)
    made.roll_back(term.deployment, day=3)
    assert [settle_terms(), settle_terms()] == [1, 0]
    term.refresh_from_db()
    assert (term.ended_at, term.ended_by) == (made.at(3), EndedBy.ROLLED_BACK)


def test_deployed_again_it_earns_no_more_and_no_longer(made: RoyaltyWorld) -> None:
    """A higher bound by luck counts for nothing, and the time runs from the first deployment."""
    made.gain(made.world.ann)
    [term] = made.noted(1, 200_000)
    made.roll_back(term.deployment, day=3)
    [again] = made.noted(4, 260_000)
    assert again.saving_ppm == term.saving_ppm
    assert (again.starts_at, again.ends_at) == (made.at(4), term.ends_at)
    [lower] = _third(made, again, 150_000)
    assert lower.saving_ppm == MILLION - remaining_ppm(150_000)


def _third(made: RoyaltyWorld, term: RoyaltyTerm, decode: int) -> list[RoyaltyTerm]:
    made.roll_back(term.deployment, day=5)
    return made.noted(6, decode)


def test_a_disguised_redeployment_credits_the_gain_no_more_either(made: RoyaltyWorld) -> None:
    """Another tree, with one more patch on top, draws a new bound: the old gain keeps its first credit at most."""
    made.gain(made.world.ann, 0.3)
    [term] = made.noted(1, 100_000)
    made.roll_back(term.deployment, day=3)
    made.gain(made.world.bob, 0.02)
    first = made.noted(4, 400_000)[0]
    assert first.person == made.world.ann and first.saving_ppm == term.saving_ppm


def test_a_reversal_ends_the_terms_of_the_gain_alone(made: RoyaltyWorld) -> None:
    first = made.gain(made.world.ann)
    made.gain(made.world.bob)
    made.noted(1, 300_000)
    made.reverse(first)
    assert settle_terms() == 1
    ended = RoyaltyTerm.objects.get(ended_by=EndedBy.REVERSED)
    assert ended.submission == first
    assert RoyaltyTerm.objects.filter(ended_at=None).count() == 1


def test_the_law_is_that_of_the_time_of_sealing(made: RoyaltyWorld) -> None:
    lineage = made.world.lineage.name
    made.gain(made.world.ann)
    set_law(actor=made.world.mira, lineage=lineage, share_ppm=500_000, days=10, reason="more for makers")
    made.gain(made.world.bob)
    set_law(actor=made.world.mira, lineage=lineage, share_ppm=0, days=0, reason="nothing from now on")
    made.gain(made.world.ann)
    terms = made.noted(1, 300_000)
    assert [(term.person, term.share_ppm, (term.ends_at - term.starts_at).days) for term in terms] == [
        (made.world.ann, 300_000, 90),
        (made.world.bob, 500_000, 10),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE bounty_royaltyterm SET saving_ppm = saving_ppm + 1",
        "UPDATE bounty_royaltyterm SET ends_at = ends_at + interval '1 day', ended_at = now(), ended_by = 'reversed'",
        "DELETE FROM bounty_royaltyterm",
        "UPDATE bounty_sharinglaw SET share_ppm = 1",
        "DELETE FROM bounty_sharinglaw",
    ],
)
def test_the_database_keeps_terms_and_laws(made: RoyaltyWorld, change: str) -> None:
    set_law(actor=made.world.mira, lineage=made.world.lineage.name, share_ppm=9, days=9, reason="test")
    made.gain(made.world.ann)
    made.noted(1, 300_000)
    with pytest.raises(IntegrityError, match=r"only be ended|append"), transaction.atomic():
        connection.cursor().execute(change)
