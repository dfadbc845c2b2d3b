"""One walk through the site with a real browser, against the whole real stack.

A newcomer signs up, makes a key, finds a bounty, submits a diff, watches the judge without reloading, reads the
verdict, spends credits in the playground and reads the bill. On the way every page must stay within the width of a
telephone, report no error and ask no other host for anything.
"""

import re
import uuid
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.bounty_world import EXAMPLES, BountyWorld, open_bounty
from tests.acceptance.running_stack import Stack
from tests.chromium import Watch, new_page, started_chromium

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.timeout(600)]

PASSWORD = "correct horse battery"
VERDICT_MS = 240_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def world(stack: Stack) -> BountyWorld:
    return open_bounty(stack.url, stack.key)


def desk_window(browser: Browser, url: str) -> tuple[Page, Watch]:
    """A page in a new browser context, and its errors."""
    page = new_page(browser, url)
    return page, Watch(page, url)


def heading(page: Page) -> str:
    return page.locator("h1").inner_text()


@pytest.mark.long
@pytest.mark.measures
def test_a_newcomer_walks_from_signing_up_to_the_bill(
    stack: Stack, world: BountyWorld, browser: Browser
) -> None:
    page, watch = desk_window(browser, stack.url)
    name = f"browser-{uuid.uuid4().hex[:8]}"

    page.goto("/")
    assert heading(page) == "Make the model faster, get paid in the model."
    register_on_the_site(page, name)

    page.get_by_role("link", name="Keys", exact=True).click()
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Submit and review patches").check()
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("#new-key").inner_text()
    assert re.fullmatch(r"gs_[0-9a-f]+_[0-9a-f]+", key)
    page.goto("/keys/")
    assert key not in page.content()

    page.get_by_role("link", name="Bounties", exact=True).click()
    page.locator(f'a[href="/bounties/{world.bounty}/"]').click()
    assert "Stop computing what is thrown away" in heading(page)
    page.get_by_role("link", name="Submit a patch").click()
    page.get_by_label("Paste the diff").fill("this is no diff")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#verdict")).to_contain_text("Verdict: patch rejected")

    page.goto(f"/bounties/{world.bounty}/submit/")
    page.locator("input[type=file]").set_input_files(EXAMPLES / "patches" / "slower.diff")
    page.get_by_role("button", name="Submit").click()
    submission = page.url
    expect(page.locator("#progress-headline")).to_contain_text("Being judged")
    expect(page.locator("#verdict")).to_contain_text("Verdict: regression", timeout=VERDICT_MS)
    expect(page.locator("svg.plot circle.pair").nth(5)).to_be_visible()
    expect(page.locator("#log")).to_contain_text("verdict")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.endswith(".json")

    _spend_in_the_playground(stack, page, name)
    _within_a_telephone(
        browser, page.context.storage_state(), stack.url, [submission, f"/bounties/{world.bounty}/"]
    )

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in", exact=True)).to_be_visible()
    assert watch.complaints == []


def test_a_maintainer_funds_the_treasury_and_opens_a_bounty_for_a_bug(
    stack: Stack, world: BountyWorld, browser: Browser
) -> None:
    page, watch = desk_window(browser, stack.url)
    name = f"mo-{uuid.uuid4().hex[:8]}"
    register_on_the_site(page, name)
    with stack.client() as admin:
        admin.post(f"users/{name}/role/", json={"role": "maintainer"}).raise_for_status()

    page.goto("/desk/")
    page.get_by_role("link", name="Treasury", exact=True).click()
    page.get_by_label("Credits").fill("lots")
    page.get_by_label("Note").fill("for bugs")
    page.get_by_role("button", name="Issue the credits").click()
    field = page.get_by_label("Credits")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("at most six decimals"))
    expect(page.get_by_label("Note")).to_have_value("for bugs")
    field.fill("12.5")
    page.get_by_role("button", name="Issue the credits").click()
    expect(page.get_by_role("status")).to_contain_text("12.5 credits were issued")
    expect(page.locator("tbody tr").first).to_contain_text("for bugs")

    page.get_by_role("link", name="Open a bounty").click()
    page.get_by_role("link", name="open a bug bounty").click()
    page.get_by_label("Title").fill("Wrong in batches")
    page.get_by_label("Lineage").select_option(world.lineage)
    page.get_by_label("The bug pays").fill("10")
    page.get_by_role("button", name="Open the bounty").click()
    expect(page.get_by_role("status")).to_contain_text("The bounty is open")
    assert "Wrong in batches" in heading(page)
    bounty = page.url

    shower = world.newcomer()
    text = (EXAMPLES / "bugs" / "batched_positions.py").read_text()
    shower.post("reproductions/", {"bounty": bounty.rstrip("/").rpartition("/")[2], "text": text})
    page.reload()
    expect(page.locator("#reproduction")).to_contain_text(f"{shower.name}: queued")
    page.get_by_text("Close this bounty").press("Enter")
    page.get_by_label("Reason").fill("Only a test.")
    page.get_by_role("button", name="Close for good").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("takes no more submissions")
    _within_a_telephone(
        browser,
        page.context.storage_state(),
        stack.url,
        ["/treasury/", "/desk/", "/bounties/new/bug/", bounty],
    )
    assert watch.complaints == [
        "console: Failed to load resource: the server responded with a status of 400 (Bad Request)"
    ]


def register_on_the_site(page: Page, name: str) -> None:
    """Sign up and be logged in."""
    page.goto("/")
    page.get_by_role("link", name="Sign up", exact=True).click()
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("status")).to_contain_text(f"Welcome, {name}")


def _spend_in_the_playground(stack: Stack, page: Page, name: str) -> None:
    """Receive credits, ask the model something, read the bill and the balance."""
    with stack.client() as admin:
        fund = {"transfer_id": str(uuid.uuid4()), "amount_microcredits": 5_000_000, "memo": "test"}
        admin.post("treasury/fund/", json=fund).raise_for_status()
        grant = {
            "transfer_id": str(uuid.uuid4()),
            "username": name,
            "amount_microcredits": 5_000_000,
            "source": "starter",
            "memo": "Welcome",
        }
        admin.post("grants/", json=grant).raise_for_status()
    page.get_by_role("link", name="Playground", exact=True).click()
    expect(page.get_by_label("Model")).to_be_enabled()
    page.get_by_label("Maximum answer length").fill("24")
    page.get_by_label("Your message").fill("What is the capital of France?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".bubble-assistant .meta")).to_contain_text("tokens", timeout=60_000)
    page.get_by_role("link", name="see the bill").click()
    expect(page.locator("tfoot td")).to_have_text(re.compile(r"^[0-9.]+$"), timeout=30_000)
    charged = float(page.locator("tfoot td").inner_text())
    page.get_by_role("link", name="Credits", exact=True).click()
    available = float(page.locator(".figure dd").first.inner_text().split()[0])
    assert charged > 0 and available == pytest.approx(5 - charged, abs=1e-9)
    expect(page.locator("main")).to_contain_text("Welcome")


def _within_a_telephone(browser: Browser, state: object, url: str, more: list[str]) -> None:
    """No page is wider than a telephone, light or dark."""
    context = browser.new_context(
        base_url=url,
        storage_state=state,  # type: ignore[arg-type]  # what Playwright itself returned
        viewport={"width": 390, "height": 844},
        color_scheme="dark",
    )
    page = context.new_page()
    own = ["/", "/how/", "/bounties/", "/lineages/", "/runners/", "/stop/", "/submissions/"]
    own += ["/keys/", "/credits/", "/usage/", "/playground/"]
    for path in [*own, *more]:
        page.goto(path)
        wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} is {wider} pixels too wide"
        hidden = page.evaluate(
            "[...document.querySelectorAll('.table-wrap')].filter(t => t.scrollWidth > t.clientWidth).length"
        )
        assert hidden == 0, f"{path} has {hidden} tables with columns out of sight"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"
    context.close()
