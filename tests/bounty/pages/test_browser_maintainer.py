"""A maintainer who is not staff makes the demo's own bounty in a browser, with nothing but the site's pages."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from benchmarks.evidence.signing import generate_key, public_key
from bounty.models import Bounty, Lineage
from bounty.services.runners.registration import register_runner
from bounty.services.trees import create_tree
from gainshare.accounts.models import ApiKey, RoleChange, User
from gainshare.accounts.services import create_user
from gainshare.cli.demo.bounties import ESCROW_MICROCREDITS, EXPERTS, TREASURY_MICROCREDITS
from gainshare.ledger import services as ledger
from tests.acceptance.bounty_world import EXAMPLES
from tests.acceptance.test_browser import PASSWORD, register_on_the_site
from tests.chromium import started_chromium

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
RED = "rgb(179, 38, 30)"

BOUNTY = EXPERTS.terms()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


def page_of(browser: Browser, server: LiveServer, *, script: bool = True) -> Page:
    context = browser.new_context(
        base_url=server.url, locale="de-DE", java_script_enabled=script, color_scheme="light"
    )
    return context.new_page()


def sign_in(page: Page, name: str) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def send(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


@pytest.mark.parametrize("script", [True, False])
def test_the_demos_bounty_is_made_from_the_site_alone(
    live_server: LiveServer, browser: Browser, script: bool
) -> None:
    maintainer = create_user(username="founder", password=PASSWORD, role="maintainer")
    register_runner(actor=maintainer, name="local", hardware="cpu", public_key=public_key(generate_key()))
    newcomer = page_of(browser, live_server, script=script)
    register_on_the_site(newcomer, "mira")
    founder = page_of(browser, live_server, script=script)
    sign_in(founder, "founder")
    founder.get_by_role("link", name="People", exact=True).click()
    founder.get_by_label("User name").fill("mira")
    founder.get_by_label("Reason").fill("She knows the kernels.")
    send(founder, "Change the role")
    expect(founder.get_by_role("status")).to_contain_text("mira is now a maintainer")
    mira = User.objects.get(username="mira")
    assert mira.is_maintainer and not mira.is_staff and not mira.is_superuser
    assert RoleChange.objects.get(user=mira).reason == "She knows the kernels."

    page = newcomer
    page.goto("/")
    page.get_by_role("link", name="Treasury", exact=True).click()
    page.get_by_label("Credits").fill(str(TREASURY_MICROCREDITS // 1_000_000))
    send(page, "Issue the credits")
    expect(page.get_by_role("alert")).to_contain_text("500 credits = 500,000,000 micro-credits")
    assert ledger.totals().issued == 0
    send(page, "It is right: issue the credits")
    expect(page.get_by_role("status")).to_contain_text("500 credits were issued (500,000,000 micro-credits)")

    page.get_by_role("link", name="Grant credits").click()
    page.get_by_label("User name").fill("founder")
    page.get_by_label("Credits").fill("7.5")
    send(page, "Grant the credits")
    expect(page.get_by_role("status")).to_contain_text("7.5 credits were granted to founder")

    page.get_by_role("link", name="Lineages", exact=True).click()
    page.get_by_label("Name", exact=True).fill("demo")
    page.locator("input[type=file]").set_input_files(EXAMPLES / EXPERTS.base)
    page.get_by_label("It is a demo").check()
    send(page, "Start it")
    expect(page.get_by_role("status")).to_contain_text("The lineage demo has started")

    page.get_by_role("link", name="Bounties", exact=True).click()
    page.get_by_role("link", name="Open a bounty").first.click()
    page.get_by_label("Title").fill(str(BOUNTY["title"]))
    page.get_by_label("Description").fill(str(BOUNTY["description"]))
    page.get_by_label("Lineage").select_option("demo")
    page.get_by_label("What is measured").select_option(f"{BOUNTY['suite']}/{BOUNTY['preset']}")
    page.get_by_label("Credits in escrow").fill("100")
    page.get_by_label("Credits per e-fold speed-up").fill("20")
    send(page, "Open the bounty")
    expect(page.get_by_role("status")).to_contain_text(
        "100 credits (100,000,000 micro-credits) are in escrow"
    )

    bounty, lineage = Bounty.objects.get(), Lineage.objects.get()
    assert {name: getattr(bounty, name) for name in BOUNTY} == BOUNTY
    assert (bounty.created_by, lineage.is_demo) == (mira, True)
    assert ledger.escrow_balance(bounty.escrow_reference).available == ESCROW_MICROCREDITS
    textbook = (EXAMPLES / EXPERTS.base).read_text()
    assert lineage.origin == create_tree(actor=mira, base="shipped", diff=textbook)


@pytest.mark.parametrize("script", [True, False])
def test_the_first_wrong_field_is_red_and_has_the_focus(
    live_server: LiveServer, browser: Browser, script: bool
) -> None:
    create_user(username="mira", password=PASSWORD, role="maintainer")
    page = page_of(browser, live_server, script=script)
    page.goto("/signup/")
    page.get_by_label("User name").fill("ann")
    page.get_by_label("E-mail").fill("nobody")
    send(page, "Sign up")
    expect(page.get_by_label("E-mail")).to_be_focused()
    sign_in(page, "mira")
    for path, label, button in (
        ("/treasury/", "Credits", "Issue the credits"),
        ("/treasury/grants/", "User name", "Grant the credits"),
        ("/people/", "User name", "Change the role"),
        ("/keys/", "Name", "Make the key"),
        ("/lineages/", "Name", "Start it"),
    ):
        page.goto(path)
        send(page, button)
        field = page.get_by_label(label, exact=True)
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_css("border-top-color", RED)
        assert page.locator("[autofocus]").count() == 1


def test_an_amount_is_read_back_while_it_is_typed_whatever_the_browsers_language(
    live_server: LiveServer, browser: Browser
) -> None:
    create_user(username="mira", password=PASSWORD, role="maintainer")
    page = page_of(browser, live_server)
    sign_in(page, "mira")
    page.goto("/treasury/")
    field, said = page.get_by_label("Credits"), page.locator("#id_amount_read")
    for typed, reads in (
        ("1500", "1,500 credits = 1,500,000,000 micro-credits"),
        ("0,5", "0.5 instead of"),
        ("1,500", "can be read in two ways"),
        ("0.5", "0.5 credits = 500,000 micro-credits"),
    ):
        field.fill(typed)
        expect(said).to_contain_text(reads)
    field.fill("")
    expect(said).to_have_text("")


def test_reloading_a_new_keys_page_makes_no_key_and_shows_nothing(
    live_server: LiveServer, browser: Browser
) -> None:
    create_user(username="ann", password=PASSWORD)
    page = page_of(browser, live_server)
    sign_in(page, "ann")
    page.goto("/keys/")
    page.get_by_label("Name").fill(f"laptop {uuid4().hex[:4]}")
    send(page, "Make the key")
    raw = page.locator("#new-key").inner_text()
    page.reload()
    expect(page.get_by_role("heading", name="This key cannot be shown again")).to_be_visible()
    page.go_back()
    page.go_forward()
    assert raw not in page.content() and ApiKey.objects.count() == 1
