"""The engine's counters: phases, exact shares of the device, cache memory over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.serving.usage import DeviceMeter, RequestMeter


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


def test_shares_follow_the_number_of_tokens() -> None:
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
