"""Signing in and linking with GitHub in a real browser: the policy of the site lets it, and no page is broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from bounty.github.standin.control.standin import StandIn, running
from gainshare.accounts.github_accounts import github_account
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.services import create_user
from tests.chromium import DESK, TELEPHONE, new_page, started_chromium

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture
def github(tmp_path: Path, settings: Settings, live_server: LiveServer) -> Iterator[StandIn]:
    with running(tmp_path / "github") as made:
        settings.GITHUB_URL, settings.GITHUB_API_URL = made.url, made.api_url
        settings.GITHUB_CLIENT_ID, settings.GITHUB_CLIENT_SECRET = made.app.client_id, made.app.client_secret
        settings.PUBLIC_URL = live_server.url
        yield made


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_visitor_signs_in_and_takes_a_name(
    live_server: LiveServer, browser: Browser, github: StandIn, width: int, theme: str
) -> None:
    nina = github.add_user("nina")
    github_account(github_id=nina.github_id, login="nina")
    github.sign_in(nina)
    page = new_page(browser, live_server.url, width=width, theme=theme)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto("/login/?next=/credits/")
    page.get_by_role("button", name="Log in with GitHub").click()
    expect(page.locator("h1")).to_have_text("Choose a user name")
    expect(page.get_by_label("User name")).to_have_value("nina")
    fits(page)
    page.get_by_role("button", name="Use this name").click()
    page.wait_for_url("**/credits/")
    assert User.objects.get().username == "nina" and errors == []
    page.goto("/account/")
    expect(page.get_by_role("link", name="nina", exact=True).last).to_have_attribute(
        "href", f"{github.url}/nina"
    )
    fits(page)
    page.context.close()


def test_a_user_links_an_account_and_is_told_when_it_is_refused(
    live_server: LiveServer, browser: Browser, github: StandIn
) -> None:
    ann = create_user(username="ann", password="correct horse battery")
    bob = create_user(username="bob", password="correct horse battery")
    github.sign_in(github.add_user("nina"))
    for person, heading in ((ann, "ann"), (bob, "GitHub is not linked")):
        page = new_page(browser, live_server.url, person)
        page.goto("/account/")
        page.get_by_role("button", name="Link GitHub").click()
        expect(page.locator("h1")).to_have_text(heading)
        fits(page)
        page.context.close()
    assert GitHubAccount.objects.get().user == ann


def fits(page: object) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # type: ignore[attr-defined]
