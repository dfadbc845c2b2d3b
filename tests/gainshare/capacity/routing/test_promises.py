"""Kept and broken promises: the first token by its time from arrival, the further ones by their mean."""

import pytest

from gainshare.capacity.routing.promises import Broken, Promise, Timed, broken

PROMISE = Promise(first_token_ms=2000, token_ms=100)


@pytest.mark.parametrize(
    ("timed", "late", "slow"),
    [
        (Timed(waited_s=5.0, first_token_s=2.0), False, False),
        (Timed(waited_s=5.0, first_token_s=2.1), True, False),
        (Timed(waited_s=5.0, first_token_s=1.0, decode_s=1.0, decode_tokens=10), False, False),
        (Timed(waited_s=5.0, first_token_s=1.0, decode_s=1.1, decode_tokens=10), False, True),
        (Timed(waited_s=5.0, first_token_s=2.1, decode_s=1.1, decode_tokens=10), True, True),
        (
            Timed(waited_s=5.0, first_token_s=1.0, decode_s=9.0, decode_tokens=0),
            False,
            False,
        ),  # one token, then nothing
        (Timed(waited_s=2.1), True, False),  # it gave up, or was refused, after the promise was broken
    ],
)
def test_each_promise_is_kept_or_broken_by_itself(timed: Timed, late: bool, slow: bool) -> None:
    assert broken(timed, PROMISE) == Broken(is_late=late, is_slow=slow)


def test_a_client_that_left_before_tells_nothing() -> None:
    assert broken(Timed(waited_s=1.9), PROMISE) is None
