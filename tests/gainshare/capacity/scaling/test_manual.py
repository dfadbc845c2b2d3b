"""A maintainer's fixed count goes to the cheapest classes first."""

from gainshare.capacity.policies.observed import ClassFacts
from gainshare.capacity.scaling.manual import manual_counts


def facts(name: str, price: int, most: int) -> ClassFacts:
    return ClassFacts(name=name, price=price, slots=4, requests_per_s=0.0, cold_start_s=20, max_nodes=most)


def test_the_cheapest_class_is_filled_first() -> None:
    answer = manual_counts(3, [facts("dear", 9, 8), facts("cheap", 1, 2)])
    assert answer.nodes == {"cheap": 2, "dear": 1}
    assert answer.reason == "a maintainer set 3 nodes"


def test_what_has_no_room_is_said() -> None:
    answer = manual_counts(5, [facts("dear", 9, 1), facts("cheap", 1, 2)])
    assert answer.nodes == {"cheap": 2, "dear": 1}
    assert answer.reason == "a maintainer set 5 nodes; the classes have no room for 2 of them"


def test_none_is_none() -> None:
    assert manual_counts(0, [facts("cheap", 1, 2)]).nodes == {"cheap": 0}
