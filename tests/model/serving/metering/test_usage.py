"""The engine's counters: phases, exact shares of the device, cache memory over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.serving.metering.usage import DeviceMeter, RequestMeter, Usage


@given(
    st.lists(
        st.tuples(st.integers(0, 10**10), st.lists(st.integers(1, 500), min_size=1, max_size=9)), max_size=9
    )
)
def test_every_busy_nanosecond_is_charged_to_exactly_one_request(steps: list[tuple[int, list[int]]]) -> None:
    device, meters = DeviceMeter(), [RequestMeter(1, 0) for _ in range(9)]
    for duration_ns, tokens in steps:
        device.step(duration_ns, list(zip(meters, tokens, strict=False)))
    assert (
        sum(meter.device_ns for meter in meters) == device.busy_ns == sum(duration for duration, _ in steps)
    )


def test_shares_follow_the_work() -> None:
    device, (long, short) = DeviceMeter(), (RequestMeter(99, 0), RequestMeter(1, 0))
    device.step(1000, [(long, 99), (short, 1)])
    assert (long.device_ns, short.device_ns) == (990, 10)


def test_phases_are_counted_one_after_the_other() -> None:
    meter = RequestMeter(7, now_ns=100)
    assert meter.read(150).queued_ns == 50
    meter.started(200)
    assert meter.read(230).prefill_ns == 30
    meter.token(260)
    meter.token(300)
    meter.ended(340)
    usage = meter.read(9999)  # after the end nothing grows
    assert (usage.queued_ns, usage.prefill_ns, usage.decode_ns) == (100, 60, 80)
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 2)


def test_cache_memory_is_integrated_over_time_and_never_while_queued() -> None:
    meter = RequestMeter(7, now_ns=0)
    assert meter.read(1000).kv_byte_ns == 0
    meter.started(1000)
    meter.holds_cache(10, 1000)
    assert meter.read(1100).kv_byte_ns == 1000
    meter.holds_cache(20, 1200)
    meter.ended(1300)
    assert meter.read(5000).kv_byte_ns == 10 * 200 + 20 * 100


def test_time_given_way_counts_as_queued_and_holds_nothing() -> None:
    meter = RequestMeter(7, now_ns=0)
    meter.started(100)
    meter.holds_cache(10, 100)
    meter.preempted(150)
    meter.started(400)
    meter.started(410)  # a second answer of it: it runs already
    meter.holds_cache(20, 400)
    meter.token(500)
    meter.preempted(550)
    meter.started(600)
    meter.ended(900)
    usage = meter.read(1000)
    assert (usage.queued_ns, usage.prefill_ns, usage.decode_ns) == (100 + 250 + 50, 50 + 100, 50 + 300)
    assert usage.kv_byte_ns == 10 * 50 + 20 * 150


def test_the_three_phases_are_the_whole_life() -> None:
    meter = RequestMeter(7, now_ns=0)
    for call, now_ns in ((meter.started, 3), (meter.token, 9), (meter.preempted, 20), (meter.started, 21)):
        call(now_ns)
        usage = meter.read(now_ns + 2)
        assert usage.queued_ns + usage.prefill_ns + usage.decode_ns == now_ns + 2


def test_cached_and_fresh_tokens_are_the_prompt() -> None:
    meter = RequestMeter(7, now_ns=0)
    meter.cached_tokens = 4
    usage = meter.read(1)
    assert (usage.cached_tokens, usage.fresh_tokens) == (4, 3)
    assert usage.to_openai()["prompt_tokens_details"] == {"cached_tokens": 4}


def test_each_counter_is_shown_under_its_name_in_whole_milliseconds_rounded_down() -> None:
    usage = Usage(
        prompt_tokens=11,
        cached_tokens=4,
        completion_tokens=5,
        queued_ns=1_999_999,
        prefill_ns=2_000_000,
        decode_ns=3_000_001,
        device_ns=4_500_000,
        kv_byte_ns=5_999_999,
    )
    assert usage.to_openai() == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
        "gainshare": {
            "queued_ms": 1,
            "prefill_ms": 2,
            "decode_ms": 3,
            "device_ms": 4,
            "kv_byte_ms": 5,
            "device_ns": 4_500_000,
        },
    }


def test_a_request_that_never_ran_has_only_waited() -> None:
    meter = RequestMeter(3, now_ns=0)
    meter.ended(5_000_000)
    shown = meter.read(9_000_000).to_openai()
    assert shown["total_tokens"] == 3
    assert shown["gainshare"] == {
        "queued_ms": 5,
        "prefill_ms": 0,
        "decode_ms": 0,
        "device_ms": 0,
        "kv_byte_ms": 0,
        "device_ns": 0,
    }
