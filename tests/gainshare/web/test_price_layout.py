"""The pages of prices and of a running request in a real browser: live figures, nothing wider than the page."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from gainshare.gateway import services
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.ledger.price_book import publish_price
from gainshare.ledger.pricing import Arrival
from tests.chromium import DESK, TELEPHONE, Watch, new_page, started_chromium
from tests.gainshare.gateway.charged_world import ALL_TERMS, GB_S, PRICES, PROMPT, Charged, over_midnight

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture
def charged(transactional_db: None) -> Charged:
    return Charged()


def progress(tokens: int, decode_ms: int) -> Metered:
    engine = {"queued_ms": 12, "prefill_ms": 345, "decode_ms": decode_ms, "device_ms": 678}
    return Metered(PROMPT, 4, tokens, engine, 21, (Arrival(21, 0, tokens),), GB_S)


def is_within(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_a_running_request_tells_its_times_and_then_its_bill(
    browser: Browser, live_server: Any, charged: Charged, width: int, tmp_path: Path
) -> None:
    request_id = charged.admit(charged.price(**ALL_TERMS))
    services.record_progress(request_id=request_id, metered=progress(3, 1500))
    page = new_page(browser, live_server.url, charged.ann, width=width)
    watch = Watch(page, live_server.url)
    page.goto(f"/usage/{request_id}/")
    times = page.locator("#device-times")
    expect(times).to_contain_text("1.500 s")
    expect(times).to_contain_text("0.345 s")
    assert is_within(page)
    services.record_progress(request_id=request_id, metered=progress(7, 2503))
    expect(page.locator("#device-tokens")).to_have_text("7")
    expect(times).to_contain_text("2.503 s")
    services.record_outcome(request_id=request_id, status=RequestStatus.COMPLETED, metered=over_midnight())
    services.settle(request_id=request_id)
    expect(page.locator("tfoot")).to_contain_text("0.000047")
    assert is_within(page) and watch.complaints == []
    page.screenshot(path=tmp_path / "usage.png", full_page=True)


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_a_maintainer_tries_a_draft_and_publishes_it(
    browser: Browser, live_server: Any, charged: Charged, width: int, tmp_path: Path
) -> None:
    charged.settled(charged.price(**PRICES), over_midnight())
    wide = {**ALL_TERMS, "long_cached_input": 10, "off_peak_windows": [[22, 6, 500_000], [12, 13, 750_000]]}
    publish_price(
        model="a-model-with-a-long-name-7b-instruct",
        effective_at=timezone.now() + timedelta(days=3),
        actor=None,
        **wide,
    )
    page = new_page(browser, live_server.url, charged.world.maintainer, width=width)
    watch = Watch(page, live_server.url)
    page.goto("/prices/")
    page.get_by_label("Answer", exact=True).fill("3")
    page.get_by_label("Off-peak hours").fill("22-6 50%")
    page.get_by_role("button", name="Show the last month under it").click()
    expect(page.locator("#draft")).to_contain_text("it can take effect at once")
    assert is_within(page)
    page.screenshot(path=tmp_path / "prices.png", full_page=True)
    assert page.get_by_label("Off-peak hours").input_value() == "22-6 50%"
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("status")).to_contain_text("was published")
    assert is_within(page) and watch.complaints == []
    assert UsageRecord.objects.count() == 1
