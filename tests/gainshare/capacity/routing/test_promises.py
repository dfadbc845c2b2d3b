"""Kept and broken promises: the first token by its time from arrival, the further ones by their mean."""

import pytest

from gainshare.capacity.routing.promises import Promise, Timed, is_late

PROMISE = Promise(first_token_ms=2000, token_ms=100)


@pytest.mark.parametrize(
    ("timed", "late"),
    [
        (Timed(waited_s=5.0, first_token_s=2.0), False),
        (Timed(waited_s=5.0, first_token_s=2.1), True),
        (Timed(waited_s=5.0, first_token_s=1.0, decode_s=1.0, decode_tokens=10), False),
        (Timed(waited_s=5.0, first_token_s=1.0, decode_s=1.1, decode_tokens=10), True),
        (
            Timed(waited_s=5.0, first_token_s=1.0, decode_s=9.0, decode_tokens=0),
            False,
        ),  # one token, then nothing
        (Timed(waited_s=2.1), True),  # it gave up, or was refused, after the promise was broken
        (Timed(waited_s=1.9), None),  # its client left before
    ],
)
def test_a_request_is_late_or_not_or_tells_nothing(timed: Timed, late: bool | None) -> None:
    assert is_late(timed, PROMISE) is late
