"""Numbers of bounties: one for each, never changed or given again, also when many are opened at once."""

import threading
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from bounty.errors import NotFound
from bounty.models import Bounty
from bounty.services.bounties import find_bounty
from tests.bounty.bounty_world import World

AT_ONCE = 8


@pytest.mark.django_db
def test_numbers_grow_by_order_of_opening(world: World) -> None:
    later = world.open()
    assert later.number > world.bounty.number
    assert later.short_name == f"B{later.number}"


@pytest.mark.django_db
def test_a_number_is_never_changed(world: World) -> None:
    with pytest.raises(IntegrityError, match="keeps its number"), transaction.atomic():
        Bounty.objects.filter(pk=world.bounty.pk).update(number=world.bounty.number + 1000)


@pytest.mark.django_db
def test_the_number_of_an_opening_that_failed_is_not_given_again(world: World) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        lost = world.open().number
        raise ZeroDivisionError
    assert world.open().number > lost


@pytest.mark.django_db
def test_a_bounty_is_found_by_its_number(world: World) -> None:
    assert find_bounty(world.bounty.short_name) == world.bounty
    assert find_bounty(world.bounty.short_name.lower()) == world.bounty
    assert find_bounty(str(world.bounty.pk)) == world.bounty
    assert find_bounty(world.bounty.pk) == world.bounty


@pytest.mark.django_db
def test_a_wrong_number_says_where_the_numbers_are(world: World) -> None:
    with pytest.raises(NotFound, match=r"no bounty B999999\. .*gainshare bounties"):
        find_bounty("B999999")
    with pytest.raises(NotFound, match=r"by its number, such as B12, or by its id"):
        find_bounty("#12")


@pytest.mark.django_db(transaction=True)
def test_bounties_opened_at_once_have_numbers_of_their_own() -> None:
    """Every transaction is open with its number when the first one commits."""
    world = World()
    numbered = threading.Barrier(AT_ONCE)
    failures: list[BaseException] = []

    def open_one() -> None:
        try:
            with transaction.atomic():
                Bounty.objects.create(**terms)
                numbered.wait(20)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    terms: dict[str, Any] = {
        name: getattr(world.bounty, name)
        for name in (
            "title", "lineage", "suite", "preset", "hardware", "escrow_microcredits",
            "rate_microcredits_per_nat", "created_by",
        )
    }  # fmt: skip
    threads = [threading.Thread(target=open_one) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    numbers = list(Bounty.objects.values_list("number", flat=True))
    assert len(numbers) == AT_ONCE + 1 == len(set(numbers))
    assert world.open().number > max(numbers)
