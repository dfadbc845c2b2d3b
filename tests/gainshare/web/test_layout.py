"""The shell's pages in a real browser: visible keys, unbroken figures, copying, contrast."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key, create_user
from gainshare.gateway.models import UsageRecord
from gainshare.ledger.price_book import publish_price
from tests.chromium import DESK, TELEPHONE, Watch, new_page, started_chromium
from tests.gainshare.ledger.ledger_world import World
from tests.gainshare.web.test_contrast import TEXT_CONTRAST, contrast

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

REFUSED = "navigator.clipboard.writeText = () => Promise.reject(new DOMException('no', 'NotAllowedError'))"
ABSENT = "Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })"
# Text, ground and what shines through both, at a moment of the badge's animations.
BADGE_AT = """(share) => {
  const badge = document.querySelector(".badge-busy");
  for (const animation of badge.getAnimations({ subtree: true })) {
    animation.pause();
    animation.currentTime = share * animation.effect.getComputedTiming().duration;
  }
  const style = getComputedStyle(badge);
  return [style.color, style.backgroundColor, getComputedStyle(badge.closest(".card")).backgroundColor, Number(style.opacity)];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture
def user(transactional_db: None) -> User:
    return create_user(username="kim", password="correct horse battery")


def channels(colour: str) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]


def shown(colour: str, behind: str, opacity: float) -> str:
    """The colour that is seen: `colour` with what is behind it shining through."""
    mixed = [
        opacity * front + (1 - opacity) * back
        for front, back in zip(channels(colour), channels(behind), strict=True)
    ]
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


@pytest.mark.parametrize("lifetime", [None, timedelta(days=90)])
def test_a_key_can_be_revoked_without_scrolling_to_the_button(
    browser: Browser, live_server: Any, user: User, lifetime: timedelta | None
) -> None:
    user.role = "maintainer"
    user.save()
    until = lifetime and timezone.now() + lifetime
    key, _ = create_api_key(
        user=user, name="The laptop at home", scopes=sorted(user.allowed_scopes), expires_at=until
    )
    key.last_used_at = timezone.now()
    key.save()
    page = new_page(browser, live_server.url, user)
    page.goto("/keys/")
    button = page.get_by_role("button", name="Revoke")
    box, frame = button.bounding_box(), page.locator(".table-wrap").bounding_box()
    assert box is not None and frame is not None
    assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] <= DESK
    page.once("dialog", lambda dialog: dialog.accept())
    button.click()
    expect(page.get_by_role("status")).to_contain_text("was revoked")


def test_a_figure_is_never_broken_inside(browser: Browser, live_server: Any, user: User) -> None:
    world = World(funded=10_000_000_000)
    world.grant(user, 1_820_000_499)
    page = new_page(browser, live_server.url, user, width=TELEPHONE)
    page.route("**/playground/api/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    for path in ("/credits/", "/", "/playground/"):
        page.goto(path)
        number = page.get_by_text("1,820.000499").first
        lines = number.evaluate(
            "(box) => { const text = [...box.childNodes].find((node) => node.data?.includes('1,820.000499'));"
            " const range = document.createRange(); const at = text.data.indexOf('1,820');"
            " range.setStart(text, at); range.setEnd(text, at + 12); return range.getClientRects().length; }"
        )
        assert lines == 1, path


def new_key(page: Page) -> str:
    """The text of a key that was made on the page which shows it."""
    page.goto("/keys/")
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Make the key").click()
    return page.locator("#new-key").inner_text()


def test_the_copy_button_copies_and_says_so(browser: Browser, live_server: Any, user: User) -> None:
    page = new_page(browser, live_server.url, user)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    key = new_key(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".copy-note")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == key


@pytest.mark.parametrize("clipboard", [REFUSED, ABSENT])
def test_where_the_clipboard_is_kept_from_it_the_button_says_so_and_selects_the_key(
    browser: Browser, live_server: Any, user: User, clipboard: str
) -> None:
    page = new_page(browser, live_server.url, user)
    watch = Watch(page, live_server.url)
    page.add_init_script(clipboard)
    key = new_key(page)
    page.get_by_role("button", name="Copy").click()
    note = page.locator(".copy-note")
    expect(note).to_contain_text("press Ctrl+C")
    expect(note).to_have_role("status")
    assert page.evaluate("String(getSelection())").strip() == key
    assert watch.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_pulsing_badge_can_be_read_at_every_moment(
    browser: Browser, live_server: Any, user: User, theme: str
) -> None:
    price = publish_price(
        model="tiny", effective_at=timezone.now(), cached_input=1, fresh_input=2, output=3, actor=None
    )
    UsageRecord.objects.create(
        request_id=uuid4(),
        user=user,
        key_prefix="0123456789ab",
        endpoint="chat/completions",
        model="tiny",
        is_stream=True,
        max_tokens=9,
        prompt_tokens=9,
        price=price,
        hold_microcredits=9,
        expires_at=timezone.now(),
    )
    page = new_page(browser, live_server.url, user, theme=theme)
    page.goto("/usage/")
    assert page.evaluate("document.querySelector('.badge-busy').getAnimations({ subtree: true }).length") == 1
    ratios = []
    for step in range(25):
        text, ground, behind, opacity = page.evaluate(BADGE_AT, step / 24)
        ratios.append(contrast(shown(text, behind, opacity), shown(ground, behind, opacity)))
    assert min(ratios) >= TEXT_CONTRAST
