"""The audit finds royalties that the caps or the terms of their day do not explain, however they came to be."""

from collections.abc import Callable

import pytest
from django.db import connection

from bounty.models import RoyaltyPayment, RoyaltyTerm
from bounty.services.royalties.days import pay_day
from bounty.services.royalties.terms import void_reversed
from tests.bounty.services.royalties.royalty_world import MODEL, RoyaltyWorld
from tests.gainshare.ledger.ledger_world import violations

pytestmark = pytest.mark.django_db
WITHIN, EXPLAINED = "royalties_within_their_days", "royalties_explained_by_their_terms"


@pytest.fixture
def made() -> RoyaltyWorld:
    """Two gains of two people, both on output, and a day on which both were paid by the other and by Cem."""
    made = RoyaltyWorld()
    ann, bob = made.world.ann, made.world.bob
    made.gain(ann)
    made.noted(1, 400_000)
    made.gain(bob)
    made.noted(2, 900_000)
    for person in (ann, bob, made.cem):
        made.earn(person, 100_000)
        made.ask(person, day=3.5, tree=str(made.world.lineage.tip_id), output=10_000)
    pay_day(model=MODEL, day=made.day(3))
    assert RoyaltyPayment.objects.count() == 2
    return made


def broken() -> set[str]:
    return {found.name for found in violations()}


def test_a_paid_day_holds_also_after_its_gain_was_reversed(made: RoyaltyWorld) -> None:
    assert broken() == set()
    first = RoyaltyTerm.objects.order_by("starts_at").first()
    assert first is not None
    made.reverse(first.submission)
    void_reversed()
    assert broken() == set()


@pytest.mark.parametrize(("more", "found"), [(0, set()), (1, {WITHIN})])
def test_more_than_a_fifth_of_what_others_paid_is_found(
    more: int, found: set[str], made: RoyaltyWorld
) -> None:
    """All of the day goes to Ann, and her transfer with it. She is paid of what Bob and Cem paid, not of her own."""
    amount = 2 * 40_000 // 5 + more
    hers = RoyaltyPayment.objects.get(term__person=made.world.ann)
    rewrite("DELETE FROM bounty_royaltypayment WHERE id <> %s", hers.pk)
    rewrite("DELETE FROM ledger_transfer WHERE kind = 'royalty' AND id <> %s", hers.transfer_id)
    rewrite("UPDATE bounty_royaltypayment SET amount_microcredits = %s", amount)
    rewrite("UPDATE bounty_royaltyday SET royalties_microcredits = %s", amount)
    rewrite("UPDATE ledger_transfer SET amount_microcredits = %s WHERE id = %s", amount, hers.transfer_id)
    assert broken() & {WITHIN, EXPLAINED} == found


def test_more_than_a_fifth_of_all_is_found_whoever_earned_it(made: RoyaltyWorld) -> None:
    """Each of two is within what others paid, both together are not."""
    rewrite("UPDATE bounty_royaltypayment SET amount_microcredits = 12001")
    rewrite("UPDATE bounty_royaltyday SET royalties_microcredits = 24002")
    rewrite("UPDATE ledger_transfer SET amount_microcredits = 12001 WHERE kind = 'royalty'")
    assert broken() & {WITHIN, EXPLAINED} == {WITHIN}


def rewrite(sql: str, *values: object) -> None:
    """As somebody would who is above the database's triggers."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(sql, values)
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")


OF_ANN = "term_id IN (SELECT id FROM bounty_royaltyterm WHERE person_id = %s)"


def without_usage(made: RoyaltyWorld) -> None:
    rewrite("UPDATE gateway_usagerecord SET model = 'other' WHERE user_id <> %s", made.world.ann.pk)


def without_payments(made: RoyaltyWorld) -> None:
    rewrite(f"DELETE FROM bounty_royaltypayment WHERE {OF_ANN}", made.world.ann.pk)


def another_amount(made: RoyaltyWorld) -> None:
    rewrite(f"UPDATE bounty_royaltypayment SET amount_microcredits = 1 WHERE {OF_ANN}", made.world.ann.pk)


def another_day(made: RoyaltyWorld) -> None:
    rewrite(f"UPDATE bounty_royaltypayment SET day = %s WHERE {OF_ANN}", made.day(4), made.world.ann.pk)


def another_person(made: RoyaltyWorld) -> None:
    rewrite(
        "UPDATE bounty_royaltyterm SET person_id = %s WHERE person_id = %s", made.cem.pk, made.world.ann.pk
    )


def without_transfer(made: RoyaltyWorld) -> None:
    rewrite("DELETE FROM ledger_transfer WHERE kind = 'royalty'")


def without_day(made: RoyaltyWorld) -> None:
    rewrite("DELETE FROM bounty_royaltyday")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (without_usage, {WITHIN}),
        (without_payments, {EXPLAINED}),
        (another_amount, {EXPLAINED}),
        (another_day, {EXPLAINED, WITHIN}),
        (another_person, {EXPLAINED}),
        (without_transfer, {EXPLAINED}),
        (without_day, {EXPLAINED}),
    ],
)
def test_what_is_changed_behind_its_back_is_found(
    change: Callable[[RoyaltyWorld], None], found: set[str], made: RoyaltyWorld
) -> None:
    change(made)
    assert broken() & {WITHIN, EXPLAINED} == found
