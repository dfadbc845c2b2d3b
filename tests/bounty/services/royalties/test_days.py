"""What a day pays: others' tokens, paid from vested awards or purchases, within both caps, once."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from bounty.limits import REVERSAL_WINDOW
from bounty.models import RoyaltyDay, RoyaltyPayment, Switch
from bounty.services.emergency import stop
from bounty.services.royalties.days import pay_day
from bounty.services.royalties.schedule import pay_due, settle_royalties, vest_due
from bounty.services.royalties.terms import void_reversed
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.errors import LedgerError
from gainshare.ledger.models import Transfer
from gainshare.ledger.services import grants
from tests.bounty.services.royalties.royalty_world import MODEL, RoyaltyWorld
from tests.gainshare.ledger.ledger_world import violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def made() -> RoyaltyWorld:
    """Ann's gain saves 18 % of output from day 1 on; Cem has 100,000 micro-credits of an award."""
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.noted(1, 200_000)
    made.earn(made.cem, 100_000)
    return made


def pay(made: RoyaltyWorld, day: int = 2) -> RoyaltyDay:
    return pay_day(model=MODEL, day=made.day(day))


def test_a_share_of_the_saving_on_others_tokens(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    done = pay(made)
    assert (done.paid_microcredits, done.royalties_microcredits) == (40_000, 40_000 * 181_270 * 3 // 10**7)
    assert made.royalties(made.world.ann) == done.royalties_microcredits
    assert ledger.balance(made.world.ann).unvested == done.royalties_microcredits
    assert violations() == []


def tip(made: RoyaltyWorld) -> str:
    return str(made.world.lineage.tip_id)


def test_paying_a_day_again_pays_nothing(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    first = pay(made)
    made.ask(made.cem, day=2.6, tree=tip(made), output=10_000)
    assert pay(made) == first
    assert made.royalties() == first.royalties_microcredits and RoyaltyPayment.objects.count() == 1


def test_own_tokens_earn_nothing(made: RoyaltyWorld) -> None:
    made.earn(made.world.ann, 50_000)
    made.ask(made.world.ann, day=2.5, tree=tip(made), output=10_000)
    assert pay(made).royalties_microcredits == 0


@pytest.mark.parametrize("source", ["starter", "grant", "gift", "award", "royalty"])
def test_credits_that_were_given_earn_no_one_anything(
    made: RoyaltyWorld, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an older grant called itself an award: an award's lot is known by what filled it."""
    monkeypatch.setattr(grants, "NO_GRANTS", frozenset())
    made.grant(made.cem, 40_000, source)
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    done = pay(made)
    assert (done.paid_microcredits, done.royalties_microcredits) == (0, 0)


@pytest.mark.parametrize("source", ["award", "royalty"])
def test_no_grant_calls_itself_an_award(made: RoyaltyWorld, source: str) -> None:
    with pytest.raises(LedgerError, match="only the ledger makes such lots"):
        made.grant(made.cem, 40_000, source)


def test_a_purchased_lot_counts_as_an_award_does(made: RoyaltyWorld) -> None:
    made.grant(made.cem, 40_000, "purchase")
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    assert pay(made).paid_microcredits == 40_000


def test_of_a_request_paid_from_two_lots_the_earned_part_counts(made: RoyaltyWorld) -> None:
    made.grant(made.cem, 30_000, "starter")
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    done = pay(made)
    assert (done.paid_microcredits, done.royalties_microcredits) == (10_000, 10_000 * 181_270 * 3 // 10**7)


@pytest.mark.parametrize("tree", ["", "f" * 64, "before"])
def test_tokens_of_trees_without_the_gain_earn_nothing(made: RoyaltyWorld, tree: str) -> None:
    named = str(made.world.tree.pk) if tree == "before" else tree
    made.ask(made.cem, day=2.5, tree=named, output=10_000)
    done = pay(made)
    assert (done.paid_microcredits, done.royalties_microcredits) == (40_000, 0)


def test_a_later_tree_still_has_the_gain(made: RoyaltyWorld) -> None:
    made.gain(made.world.bob)
    made.noted(2, 100_000)
    made.ask(made.cem, day=3.5, tree=tip(made), output=10_000)
    pay(made, 3)
    assert made.royalties(made.world.ann) > made.royalties(made.world.bob) > 0


def test_only_while_the_term_runs(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=0.5, tree=tip(made), output=10_000)
    assert pay(made, 0).royalties_microcredits == 0
    made.roll_back(made.serving, day=2.5)  # type: ignore[arg-type]
    settle_royalties()
    made.ask(made.cem, day=4.2, tree=tip(made), output=5_000)
    assert pay_day(model=MODEL, day=made.day(4)).royalties_microcredits == 0


def test_no_more_than_a_fifth_of_what_an_account_paid() -> None:
    made = RoyaltyWorld()
    made.gain(made.world.ann, 2.0)
    made.noted(1, 2_000_000)
    made.earn(made.cem, 100_000)
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    assert pay(made).royalties_microcredits == 40_000 * 2 // 10


def test_every_day_that_is_over_is_paid_once_and_today_is_not(made: RoyaltyWorld) -> None:
    for day in (2, 4):
        made.ask(made.cem, day=day + 0.5, tree=tip(made), output=5_000)
    now = timezone.now()
    assert pay_due(now) > 0
    assert pay_due(now) == 0
    assert set(RoyaltyPayment.objects.values_list("day", flat=True)) == {made.day(2), made.day(4)}
    assert not RoyaltyDay.objects.filter(day__gte=now.date()).exists()


def test_it_vests_after_the_window(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    earned = pay(made).royalties_microcredits
    before = ledger.balance(made.world.ann).available
    assert vest_due(timezone.now()) == 0
    later = timezone.now() + REVERSAL_WINDOW + timedelta(minutes=1)
    assert [vest_due(later), vest_due(later)] == [1, 0]
    assert ledger.balance(made.world.ann).available == before + earned
    assert violations() == []


def test_a_reversal_within_the_window_takes_it_back(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    pay(made)
    submission = made.world.bounty.submissions.get()
    made.reverse(submission)
    settle_royalties()
    assert made.royalties() == 0 and void_reversed() == 0
    assert vest_due(timezone.now() + REVERSAL_WINDOW * 2) == 0
    made.ask(made.cem, day=3.5, tree=str(submission.candidate_tree_id), output=10_000)
    assert pay(made, 3).royalties_microcredits == 0
    assert violations() == []


def test_nothing_is_paid_or_vests_while_awards_are_stopped(made: RoyaltyWorld) -> None:
    made.ask(made.cem, day=2.5, tree=tip(made), output=10_000)
    stop(actor=made.world.mira, switch=Switch.AWARDS, reason="looking into it")
    settle_royalties()
    assert RoyaltyDay.objects.count() == 0 and made.royalties() == 0


SPENDING = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cem", "mira"]),
        st.sampled_from(["starter", "grant", "award", "purchase"]),
        st.integers(1, 20_000),
    ),
    min_size=1,
    max_size=4,
)


def test_no_traffic_between_accounts_brings_back_more_than_a_fifth_of_what_it_cost() -> None:
    """Own and wash traffic on the real ledger: no matter who pays and with which credits, no spending returns above the cap."""
    made = RoyaltyWorld()
    made.gain(made.world.ann)
    made.gain(made.world.bob)
    made.noted(1, 900_000)

    @settings(max_examples=10, deadline=None)
    @given(SPENDING)
    def never_more(spending: list[tuple[str, str, int]]) -> None:
        with transaction.atomic():
            spent = {name: spend(made, name, source, tokens) for name, source, tokens in spending}
            assert spent
            done = pay(made)
            counting = counting_of(made)
            assert done.paid_microcredits == sum(counting.values())
            assert done.royalties_microcredits == made.royalties() <= sum(counting.values()) * 2 // 10
            # Neither of the two earns by their own tokens, so each gets at most a fifth of what the others paid.
            for person in (made.world.ann, made.world.bob):
                others = sum(paid for payer, paid in counting.items() if payer != person.pk)
                assert made.royalties(person) <= others * 2 // 10
            assert violations() == []
            transaction.set_rollback(True)

    never_more()


def spend(made: RoyaltyWorld, name: str, source: str, tokens: int) -> int:
    """Give a person credits of this source, and have them spend as much; what it cost."""
    people: dict[str, User] = {
        "ann": made.world.ann, "bob": made.world.bob, "cem": made.cem, "mira": made.world.mira,
    }  # fmt: skip
    cost = 4 * tokens
    if source == "award":
        made.earn(people[name], cost)
    else:
        made.grant(people[name], cost, source, priority=1)
    made.ask(people[name], day=2.5, tree=tip(made), output=tokens)
    return cost


def counting_of(made: RoyaltyWorld) -> dict[int, int]:
    """What each account paid from awards and purchases, by the ledger's own rows."""
    paid: dict[int, int] = {}
    for leg in Transfer.objects.filter(kind="usage", state="posted").select_related("from_account"):
        if leg.from_account.source in ("award", "purchase"):
            owner = leg.from_account.owner_id
            assert owner is not None and leg.posted_amount is not None
            paid[owner] = paid.get(owner, 0) + leg.posted_amount
    return paid
