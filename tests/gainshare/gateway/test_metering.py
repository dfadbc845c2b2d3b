"""The meter refuses counters that contradict the stream. No database, no network."""

from typing import Any

import pytest

from gainshare.gateway.arrivals import Moment
from gainshare.gateway.metering import Meter, Metered, MeterError
from gainshare.ledger.pricing import Arrival


def chunk(
    tokens: int, *, text: str | None = "x", prompt: int = 5, cached: int = 0, end: str | None = None
) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": end}]
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
        "gainshare": {"queued_ms": 1, "device_ms": 2.5, "secret": 9},
    }
    return {"choices": choices, "usage": usage}


def meter_after(*chunks: dict[str, Any], max_tokens: int = 3) -> Meter:
    meter = Meter(prompt_tokens=5, max_tokens=max_tokens)
    for one in chunks:
        meter.see(one)
    return meter


def test_the_newest_counters_stand_at_any_moment() -> None:
    meter = Meter(prompt_tokens=5, max_tokens=3)
    meter.see(chunk(1), Moment(7, 0))
    meter.see(chunk(2, cached=4), Moment(7, 10))
    assert meter.metered == Metered(
        prompt_tokens=5,
        cached_tokens=4,
        completion_tokens=2,
        engine={"queued_ms": 1, "device_ms": 2.5},
        prompt_hour=7,
        arrivals=(Arrival(7, 0, 2),),
    )
    assert meter.metered.as_openai() == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_times_that_no_database_keeps_are_left_out() -> None:
    one = chunk(1)
    times = {"queued_ms": float("nan"), "prefill_ms": float("inf"), "decode_ms": 3}
    meter = meter_after({**one, "usage": {**one["usage"], "gainshare": times}})
    assert meter.metered.engine == {"decode_ms": 3}


def test_nothing_seen_is_nothing_used() -> None:
    assert meter_after().metered == Metered(0, 0, 0, {})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (chunk(1), "went down"),
        (chunk(4), "3 allowed"),
        (chunk(3, text=None), "no chunk brought"),
        (chunk(2, prompt=6), "prompt has 5"),
        (chunk(2, cached=6), "cache"),
        ({"choices": [{"delta": {"content": "free"}}]}, "without counters"),
        ({"choices": [{}], "usage": {"prompt_tokens": 5, "completion_tokens": -1}}, "not a count"),
        ({**chunk(2), "choices": [None]}, "not a list of objects"),
        ({**chunk(2), "choices": "ab"}, "not a list of objects"),
        ({**chunk(2), "usage": {"prompt_tokens": 5, "prompt_tokens_details": 1}}, "details is not an object"),
        ({**chunk(2), "usage": {"prompt_tokens": 5, "gainshare": [1]}}, "gainshare is not an object"),
        ({"choices": [{}], "usage": {"prompt_tokens": 5, "completion_tokens": True}}, "not a count"),
        ({"choices": [{}], "usage": {"prompt_tokens": 5, "completion_tokens": "2"}}, "not a count"),
    ],
)
def test_contradictions_are_refused_and_the_last_good_count_stays(bad: dict[str, Any], why: str) -> None:
    meter = meter_after(chunk(2))
    with pytest.raises(MeterError, match=why):
        meter.see(bad)
    assert meter.metered.completion_tokens == 2


def test_a_stream_is_complete_only_with_a_reason_and_counters() -> None:
    meter_after(chunk(1), chunk(2, end="stop"), chunk(2, text=None)).check_complete()
    with pytest.raises(MeterError, match="finish reason"):
        meter_after(chunk(1)).check_complete()
    with pytest.raises(MeterError):
        meter_after().check_complete()


def answer(index: int, tokens: int, end: str | None = None) -> dict[str, Any]:
    one = chunk(tokens)
    return {**one, "choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": end}]}


def test_several_answers_are_complete_when_each_has_ended() -> None:
    meter = Meter(prompt_tokens=5, max_tokens=6, n_answers=2)
    for one in (answer(0, 1), answer(1, 2), answer(1, 3, "stop")):
        meter.see(one)
    with pytest.raises(MeterError, match="2 answers"):
        meter.check_complete()
    meter.see(answer(0, 6, "length"))
    meter.check_complete()
    assert (meter.finish_reason, meter.metered.completion_tokens) == ("length,stop", 6)
    with pytest.raises(MeterError, match="not asked for"):
        meter.see(answer(2, 6, "stop"))


def test_a_reason_of_any_length_fits_its_column() -> None:
    meter = Meter(prompt_tokens=5, max_tokens=6)
    meter.see(answer(0, 1, "x" * 100))
    assert meter.finish_reason == "x" * 32
