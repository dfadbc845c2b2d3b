"""A submission's page in a real browser: short at both widths, in both themes, and updated automatically."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from bounty.models import Run
from tests.bounty.bounty_world import World, diff_of_line
from tests.chromium import started_chromium

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SCREENS = {1280: (900, 2.5), 390: (844, 4.0)}  # height of the screen, and how many of them a page may fill


@pytest.fixture
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


def outside_the_event_loop(work: Any, *arguments: Any) -> Any:
    """Playwright keeps an event loop in this thread, in which Django refuses its ORM."""

    def run() -> Any:
        try:
            return work(*arguments)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def opened(
    browser: Browser, server: LiveServer, path: str, *, width: int = 1280, theme: Any = "light"
) -> Page:
    page = browser.new_context(
        base_url=server.url, viewport={"width": width, "height": SCREENS[width][0]}, color_scheme=theme
    ).new_page()
    page.goto(path)
    return page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", list(SCREENS))
def test_a_decided_submission_is_short_and_nothing_is_cut(
    live_server: LiveServer, browser: Browser, width: int, theme: str
) -> None:
    world = outside_the_event_loop(World)
    submission = outside_the_event_loop(world.confirmed, world.ann, diff_of_line(1, "fast = 1"), 0.3)
    page = opened(browser, live_server, f"/submissions/{submission.pk}/", width=width, theme=theme)
    height, most = SCREENS[width]
    assert page.evaluate("document.documentElement.scrollHeight") <= most * height
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#stages .stage").count() == 7
    expect(page.locator("#stages .stage-now")).to_contain_text("Review")
    plot = page.locator("details.run[open] svg.plot")
    expect(plot).to_have_count(1)
    box = plot.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    sizes = plot.locator("text").evaluate_all("texts => texts.map(t => t.getBoundingClientRect().height)")
    assert sizes and min(sizes) >= 11, "labels keep their size"
    folded = page.locator("details.run:not([open])")
    expect(folded).to_have_count(2)
    expect(folded.first.locator("svg.plot").first).to_be_hidden()
    folded.first.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_submission_follows_its_run_and_shows_the_stages_when_it_is_decided(
    live_server: LiveServer, browser: Browser
) -> None:
    world = outside_the_event_loop(World)
    submission = outside_the_event_loop(world.submit, world.ann, diff_of_line(1, "slow = 1"))
    run = outside_the_event_loop(world.lease)
    page = opened(browser, live_server, f"/submissions/{submission.pk}/")
    expect(page.locator("#stages .stage")).to_have_count(1)
    expect(page.locator("#stages")).to_contain_text("Being judged")

    def measures() -> None:
        Run.objects.filter(pk=run.pk).update(state="gating", pairs_done=14, pairs_max=24)

    outside_the_event_loop(measures)
    expect(page.locator("#progress-pairs")).to_have_text("Interim checks so far: 2", timeout=15_000)
    expect(page.locator("#progress-bar")).to_be_hidden()

    def ends() -> None:
        Run.objects.filter(pk=run.pk).update(
            state="queued", lease=None, lease_expires_at=None, runner=None, pairs_max=0
        )
        world.gate(submission, -0.285)

    outside_the_event_loop(ends)
    expect(page.locator("#verdict")).to_contain_text("Verdict: regression", timeout=15_000)
    expect(page.locator("#stages .stage")).to_have_count(7)
    expect(page.locator("#stages .stage-failed")).to_contain_text("Gate")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", list(SCREENS))
def test_the_record_is_whole_at_both_widths(
    live_server: LiveServer, browser: Browser, width: int, theme: str
) -> None:
    world = outside_the_event_loop(World)
    outside_the_event_loop(world.confirmed, world.ann, diff_of_line(1, "fast = 1"), 0.9)
    outside_the_event_loop(world.confirmed, world.bob, diff_of_line(3, "fast = 3"), 0.2)
    page = opened(browser, live_server, f"/bounties/{world.bounty.pk}/", width=width, theme=theme)
    plot = page.get_by_role("img", name="The record over time: 2 confirmed gains")
    box = plot.bounding_box()
    assert box is not None and box["x"] + box["width"] <= width and box["width"] > width / 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    spread = plot.locator("text").evaluate_all(
        "texts => texts.map(t => [t.getBoundingClientRect().left, t.getBoundingClientRect().right])"
    )
    assert all(left >= box["x"] - 1 and right <= box["x"] + box["width"] + 1 for left, right in spread)
