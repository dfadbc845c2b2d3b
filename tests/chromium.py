"""The real browser of the tests: Chromium, with a page that notes what no page of the site may do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from gainshare.accounts.models import User

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, TELEPHONE = 1280, 390  # CSS pixels of width
HEIGHTS = {DESK: 900, TELEPHONE: 844}


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """A running browser; skips where the machine has none.

    Playwright keeps an event loop in the calling thread, which waits whenever a test's own code runs. So Django's ORM
    is safe there, and is told so.
    """
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium` (or your system's package)")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Notes what no page may do: log errors, fail to load something, ask another host."""

    def __init__(self, page: Page, url: str) -> None:
        self.complaints: list[str] = []
        self._host = urlsplit(url).netloc
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc not in {self._host, ""}:
            self.complaints.append(f"asked {request.url}")


def new_page(
    browser: Browser, url: str, user: User | None = None, *, width: int = DESK, theme: Any = "light"
) -> Page:
    """A page in a context of its own at the site `url`, for `user` signed in where one is given."""
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": HEIGHTS[width]}, color_scheme=theme
    )
    if user is not None:
        name, value = settings.SESSION_COOKIE_NAME, session_of(user)
        context.add_cookies([{"name": name, "value": value, "url": url}])
    return context.new_page()


def session_of(user: User) -> str:
    """The key of a new session of `user`."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value
