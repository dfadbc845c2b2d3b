"""A rise takes effect 24 hours after it is published, however it is put together; a fall at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from gainshare.ledger.errors import IdConflict, RetroactivePrice, RiseTooSoon
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import RISE_NOTICE, active_price, publish_price

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
GB_S = 10**12


class Clock:
    """The clock of publishing, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(timezone, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def publish(effective_at: datetime | None = None, **terms: Any) -> PriceVersion:
    prices = {"cached_input": 10, "fresh_input": 10, "output": 10, **terms}
    return publish_price(model="tiny", effective_at=effective_at, actor=None, **prices)


def test_a_rise_waits_a_day_and_a_fall_does_not(clock: Clock) -> None:
    publish()
    with pytest.raises(RiseTooSoon, match="output"):
        publish(NOW + RISE_NOTICE - SECOND, output=11)
    rise = publish(NOW + RISE_NOTICE, output=11)
    assert rise.effective_at == NOW + RISE_NOTICE
    clock.now += SECOND
    fall = publish(output=9)
    assert fall.effective_at == clock.now == fall.created_at
    assert active_price("tiny", clock.now) == fall


def test_without_a_time_a_rise_takes_effect_after_a_day(clock: Clock) -> None:
    assert publish().effective_at == NOW
    clock.now += SECOND
    assert publish(output=11).effective_at == clock.now + RISE_NOTICE
    assert active_price("tiny", clock.now).output == 10


@pytest.mark.parametrize(
    "terms",
    [
        {"cached_input": 11, "fresh_input": 0, "output": 0},
        {"long_fresh_input": 1, "long_above": 10**6},
        {"long_cached_input": 1},
        {"long_output": 1},
        {"memory_tiers": [[0, 1]], "memory_share_ppm": 1},
    ],
    ids=repr,
)
def test_every_term_can_be_a_rise(clock: Clock, terms: dict[str, Any]) -> None:
    publish(NOW - HOUR)
    with pytest.raises(RiseTooSoon):
        publish(NOW, **terms)


def test_the_end_of_a_discount_is_a_rise(clock: Clock) -> None:
    publish(NOW - HOUR, off_peak_windows=[[22, 6, 500_000]])
    for windows in ([], [[23, 6, 500_000]], [[22, 6, 500_001]], [[10, 18, 500_000]]):
        with pytest.raises(RiseTooSoon, match="off peak windows"):
            publish(NOW, off_peak_windows=windows)


def test_more_of_memory_or_of_long_context_is_a_rise(clock: Clock) -> None:
    memory = {"memory_tiers": [[GB_S, 40]], "memory_share_ppm": 100_000}
    long = {"long_above": 32_000, "long_fresh_input": 5}
    publish(NOW - HOUR, **memory, **long)
    for change in (
        {"memory_share_ppm": 100_001},
        {"memory_tiers": [[GB_S - 1, 40]]},
        {"memory_tiers": [[GB_S, 41]]},
        {"long_above": 31_999},
    ):
        with pytest.raises(RiseTooSoon):
            publish(NOW, **{**memory, **long, **change})


# -- attacks ----------------------------------------------------------------------------------------


def test_two_falls_cannot_make_a_rise_at_once(clock: Clock) -> None:
    """A fall for later, and then a deeper one before it: the first would be a rise when it takes effect."""
    publish(NOW - HOUR)
    publish(NOW + HOUR, output=8)
    with pytest.raises(RiseTooSoon, match="already published"):
        publish(NOW, output=5)
    publish(NOW + HOUR + SECOND, output=5)  # after it is fine


def test_two_falls_in_their_order_cannot_make_a_rise_either(clock: Clock) -> None:
    publish(NOW - HOUR)
    publish(NOW + HOUR, output=5)
    with pytest.raises(RiseTooSoon):
        publish(NOW + 2 * HOUR, output=8)  # below what is in force, above what will be


def test_a_rise_that_was_announced_stays_announced_after_a_fall(clock: Clock) -> None:
    publish(NOW - HOUR)
    publish(NOW + RISE_NOTICE, output=20)
    clock.now += 23 * HOUR
    publish(output=5)
    assert active_price("tiny", NOW + RISE_NOTICE).output == 20


def test_an_announced_rise_cannot_be_brought_forward(clock: Clock) -> None:
    publish(NOW - HOUR)
    publish(NOW + RISE_NOTICE, output=20)
    clock.now += HOUR
    with pytest.raises(RiseTooSoon):
        publish(clock.now, output=20)
    with pytest.raises(RiseTooSoon):
        publish(NOW + RISE_NOTICE - SECOND, output=20)


def test_a_rise_between_two_announced_versions_is_one(clock: Clock) -> None:
    """It is compared with what is in force when it takes effect, not with what is now."""
    publish(NOW - HOUR, output=30)
    publish(NOW + HOUR, output=10)
    publish(NOW + 2 * HOUR, output=10, cached_input=9)
    with pytest.raises(RiseTooSoon):
        publish(NOW + HOUR + SECOND, output=20)


def test_an_old_time_does_not_raise_at_once(clock: Clock) -> None:
    clock.now = NOW - 10 * HOUR
    publish(output=50)
    clock.now = NOW - HOUR
    publish(output=10)
    clock.now = NOW
    with pytest.raises(RetroactivePrice):
        publish(NOW - 2 * HOUR, output=40)  # a fall, had it been then
    with pytest.raises(RiseTooSoon):
        publish(NOW - 30 * SECOND, output=40)  # within the tolerance of clocks
    assert active_price("tiny", NOW).output == 10


def test_a_time_before_the_version_in_force_changes_nothing(clock: Clock) -> None:
    publish(NOW - HOUR, output=50)
    publish(NOW - 10 * SECOND, output=10)
    publish(NOW - 30 * SECOND, output=40)  # between the two: it was never in force for a request from now on
    assert active_price("tiny", NOW).output == 10


def test_the_same_version_again_needs_no_notice(clock: Clock) -> None:
    publish(NOW - HOUR)
    rise = publish(NOW + RISE_NOTICE, output=11, off_peak_windows=[(22, 6, 1), (8, 9, 1)])
    clock.now += 23 * HOUR
    again = publish(NOW + RISE_NOTICE, output=11, off_peak_windows=[[8, 9, 1], [22, 6, 1]])
    assert again == rise
    with pytest.raises(IdConflict):
        publish(NOW + RISE_NOTICE, output=11)


def test_a_clock_that_steps_back_makes_no_rise_earlier(clock: Clock) -> None:
    """The clock of one web process is behind; the newest publication says that it cannot be that early."""
    publish()
    clock.now = NOW - 12 * HOUR
    with pytest.raises(RiseTooSoon):
        publish(NOW + 12 * HOUR, output=11)
    rise = publish(output=11)
    assert (rise.created_at, rise.effective_at) == (NOW, NOW + RISE_NOTICE)
