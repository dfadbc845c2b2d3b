"""Facts of the control loop's classes: from rates and lengths that the gateway measured, to the mix that is ordered."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.hosts.nodes import order
from gainshare.capacity.lengths import Lengths
from gainshare.capacity.models import Decision, Node, NodeState, NodeWindow
from gainshare.capacity.policies.observed import ClassFacts, Objective
from gainshare.capacity.policies.service_times import reachable
from gainshare.capacity.routing.estimates import BASE_TOKENS
from gainshare.capacity.routing.rates import WINDOW_S, Rates, window_of
from gainshare.capacity.scaling.facts import LEAST_REQUESTS, STEP_TOKENS, service_times
from gainshare.capacity.scaling.observe import observe
from model.serving.metering.generation import EngineLimits
from tests.gainshare.capacity.scaling.scaling_world import (
    MODEL,
    arrive,
    live,
    make_class,
    make_host,
    make_ready,
    passes,
    serve,
)

SHORT = Lengths(account=1, prompt_tokens=872, cached_tokens=0, output_tokens=11)  # 1,000 tokens of work
LONG = Lengths(account=1, prompt_tokens=9_872, cached_tokens=0, output_tokens=11)
told: list[Lengths] = []


def recent_lengths(model: str, most: int) -> list[Lengths]:
    """What the gateway's function of this name does."""
    assert model == MODEL
    return told[:most]


@pytest.fixture(autouse=True)
def lengths(settings: Settings) -> list[Lengths]:
    settings.RECENT_LENGTHS = f"{__name__}.recent_lengths"
    told.clear()
    return told


def answered(
    device_class: str,
    *,
    now: datetime,
    at_once: float = 4.0,
    token_ms: int = 20,
    prefill_per_s: int = 1000,
    requests: int = 60,
) -> None:
    """A window of a node of that class in which it answered so many requests at once."""
    back = NodeWindow.objects.filter(device_class=device_class).count()
    NodeWindow.objects.create(
        node=f"{device_class}-node", model=MODEL, device_class=device_class,
        window_at=window_of(now) - timedelta(seconds=back * WINDOW_S), requests=requests,
        busy_ms=at_once * WINDOW_S * 1000, prefill_tokens=prefill_per_s * 10, prefill_ms=10_000,
        decode_tokens=1000, decode_ms=1000 * token_ms,
    )  # fmt: skip


# -- what rates and lengths say ---------------------------------------------------------------------


def test_a_prompt_takes_its_work_at_the_measured_rate_without_what_is_cached() -> None:
    rates = Rates(1000.0, 30.0, 2.0, alone_tokens_per_s=50.0, full_tokens_per_s=20.0)
    cached = Lengths(1, 10_000, 9_000, 5)
    times = service_times(rates, [SHORT] * LEAST_REQUESTS + [cached])
    assert times is not None
    assert times.read_s[0] == 1.0
    assert times.read_s[-1] == (1_000 + BASE_TOKENS) / 1000
    assert list(times.outputs[-2:]) == [11, 5]
    assert list(times.read_steps[-2:]) == [4, 4]  # 872 tokens, and 1,000
    assert (times.token_alone_s, times.token_full_s) == (0.02, 0.05)


@pytest.mark.parametrize(
    ("rates", "alone_s", "full_s"),
    [
        (Rates(1000.0, 25.0), 0.04, 0.0),  # no window was quiet or full: the mean is used instead
        (Rates(1000.0, 25.0, alone_tokens_per_s=50.0), 0.02, 0.0),
        (
            Rates(1000.0, 25.0, alone_tokens_per_s=20.0, full_tokens_per_s=25.0),
            0.05,
            0.05,
        ),  # never faster when full
    ],
)
def test_what_was_not_seen_is_not_made_up(rates: Rates, alone_s: float, full_s: float) -> None:
    times = service_times(rates, [SHORT] * LEAST_REQUESTS)
    assert times is not None and (times.token_alone_s, times.token_full_s) == (alone_s, full_s)


@pytest.mark.parametrize(
    ("rates", "n"),
    [
        (Rates(1000.0, 25.0), LEAST_REQUESTS - 1),
        (Rates(0.0, 25.0), 99),
        (Rates(1000.0, 0.0), 99),
        (Rates(), 99),
    ],
)
def test_too_little_says_nothing(rates: Rates, n: int) -> None:
    assert service_times(rates, [SHORT] * n) is None


def test_an_unknown_class_does_not_make_a_promise_reachable() -> None:
    known = ClassFacts("known", 1, 4, 1.0, 60.0, 4, first_token_s=4.0, token_alone_s=0.2)
    unknown = ClassFacts("unknown", 1, 4, 0.0, 60.0, 4)
    asked = Objective(2.0, 0.1, 7)
    assert reachable(asked, known, unknown) == Objective(5.0, 0.25, 7)
    assert reachable(asked, unknown) == asked


# -- what the loop makes of it ----------------------------------------------------------------------


@pytest.mark.django_db
def test_the_loop_s_facts_come_from_windows_and_lengths(lengths: list[Lengths]) -> None:
    lengths += [SHORT] * 90 + [LONG] * 10
    one = make_class("standard")
    make_host(one, devices=2)
    served = serve(one)
    now = timezone.now()
    for token_ms in (40, 44, 400):  # of full windows the median counts
        answered("standard", now=now, token_ms=token_ms)
    answered("standard", now=now, at_once=0.5, token_ms=10)
    answered("standard", now=now, at_once=2.0, token_ms=90)  # neither alone nor full
    (facts,) = observe(served, now).classes
    reads = np.array([1.0] * 90 + [10.0] * 10)
    assert (facts.token_alone_s, facts.token_full_s) == pytest.approx((0.01, 0.044))
    assert facts.read_s == pytest.approx(reads.mean())
    assert facts.read_spread == pytest.approx(reads.var() / reads.mean() ** 2)
    assert facts.first_token_s == pytest.approx(10.0)
    assert facts.alone_s == pytest.approx(reads.mean() + 11 * 0.01)
    # Short prompts are read in 4 steps of 0.25 s, so that ten tokens take 1.06 s and not one; long ones take longer still.
    assert facts.held_up_share == 1.0


@pytest.mark.django_db
def test_more_nodes_are_ordered_where_prompts_are_read_one_after_the_other(lengths: list[Lengths]) -> None:
    """Two requests a second, each read in 0.4 s and answered in two more: by slots alone one node could do it."""
    one = make_class("standard")
    make_host(one, devices=8)
    served = serve(one, is_automatic=True)
    now = timezone.now()
    assert order(model=MODEL, device_class=one, reason="first") is not None
    make_ready(*live())
    answered("standard", now=now, prefill_per_s=2500, requests=300)  # ten a second with all slots
    arrive(20, now=now, steps=59)
    passes(served)
    assert len(live()) == 1
    lengths += [Lengths(1, 872, 0, 100)] * 100
    served.save()  # asks the policy at once
    passes(served)
    assert len(live()) > 1
    assert served.decisions.filter(is_change=True).latest("created_at").inputs["classes"][0][
        "read_s"
    ] == pytest.approx(0.4)


@pytest.mark.django_db
def test_a_promise_that_no_node_keeps_is_said_and_still_served(lengths: list[Lengths]) -> None:
    """Tokens of 200 ms on an idle node, 100 promised: the model is scaled for what can be kept."""
    lengths += [Lengths(1, 72, 0, 200)] * 100
    one = make_class("slow")
    make_host(one, devices=3)
    served = serve(one, is_automatic=True)
    now = timezone.now()
    assert order(model=MODEL, device_class=one, reason="first") is not None
    make_ready(*live())
    answered("slow", now=now, at_once=0.9, token_ms=200, requests=20)
    answered("slow", now=now, at_once=4.0, token_ms=220, requests=3)
    arrive(2, now=now, steps=59)
    passes(served)
    assert len(live(NodeState.STARTING)) >= 1
    decision = Decision.objects.latest("created_at")
    assert "further tokens are promised in 100 ms, the fastest class needs 250 ms" in decision.reason
    assert decision.inputs["load"]["late_share"] is None


@pytest.mark.django_db
def test_a_class_that_was_never_measured_does_as_the_slowest(lengths: list[Lengths]) -> None:
    lengths += [SHORT] * 100
    classes = [make_class(name, price=price) for name, price in (("fast", 3), ("slow", 2), ("unseen", 1))]
    for one in classes:
        make_host(one)
    served = serve(*classes)
    now = timezone.now()
    answered("fast", now=now)
    answered("slow", now=now, prefill_per_s=500, token_ms=50, requests=20)
    facts = {one.name: one for one in observe(served, now).classes}
    assert facts["unseen"].price == 1
    for name in ("requests_per_s", "read_s", "alone_s", "token_alone_s", "token_full_s"):
        assert (
            getattr(facts["unseen"], name) == getattr(facts["slow"], name) != getattr(facts["fast"], name)
        ), name


@pytest.mark.django_db
def test_a_lowered_price_counts_once_its_dear_nodes_have_ended() -> None:
    one = make_class(price=10)
    make_host(one, devices=2)
    served = serve(one)
    now = timezone.now()
    assert order(model=MODEL, device_class=one, reason="first") is not None
    for price, projected in ((4, 10), (12, 12), (4, 10)):
        one.price_microcredits_per_device_hour = price
        one.save()
        assert observe(served, now).classes[0].price == projected
    Node.objects.update(state=NodeState.DRAINING)  # it is counted by itself
    assert observe(served, now).classes[0].price == 4


def test_a_node_s_steps_are_the_engine_s_default() -> None:
    assert EngineLimits().step_tokens == STEP_TOKENS
