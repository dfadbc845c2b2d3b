"""Every page of a site full of texts without spaces, in a real browser: nothing is cut, lost or broken inside."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.bounty.hostile_world import HostileWorld, page_paths
from tests.chromium import DESK, TELEPHONE, new_page, started_chromium

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

MODELS = {"object": "list", "data": [{"id": "w" * 120}]}
# What is wider than the window, and tables of which a part is out of sight.
TOO_WIDE = """() => {
  const name = (element) => `${element.tagName.toLowerCase()}.${element.className}`;
  const found = [];
  const over = document.documentElement.scrollWidth - window.innerWidth;
  if (over > 0) {
    const widest = [...document.querySelectorAll("body *")].sort((a, b) =>
      b.getBoundingClientRect().right - a.getBoundingClientRect().right)[0];
    found.push(`page ${over} px too wide, by ${name(widest)}`);
  }
  for (const box of document.querySelectorAll(".table-wrap, .plot-wrap, .card, .notice, .figure, .actions, .field")) {
    const hidden = box.scrollWidth - box.clientWidth;
    if (hidden > 1) found.push(`${name(box)} hides ${hidden} px`);
  }
  for (const cell of document.querySelectorAll("td")) {
    if (cell.getBoundingClientRect().right > window.innerWidth) found.push(`a cell of ${cell.dataset.label} is out of sight`);
  }
  return [...new Set(found)];
}"""

# Figures, and words of buttons and labels, of which a part is on another line.
BROKEN = r"""() => {
  const found = [];
  for (const box of document.querySelectorAll(".num, .figure dd, .figure .value, #balance, .button, .badge, th")) {
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      for (const word of walker.currentNode.data.matchAll(/(?<![\w-])(?:[+\u2212]?\d[\d,.]*|[A-Za-z]{1,20})(?![\w-])/g)) {
        const range = document.createRange();
        range.setStart(walker.currentNode, word.index);
        range.setEnd(walker.currentNode, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((part) => Math.round(part.top))).size > 1) found.push(word[0]);
      }
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


@pytest.fixture
def world(browser: Browser, transactional_db: None) -> HostileWorld:
    return HostileWorld()


def complaints(page: Page, paths: list[str]) -> dict[str, list[str]]:
    """Layout faults of these pages."""
    found = {}
    for path in paths:
        response = page.goto(path)
        assert response is not None and response.status < 500, path
        wrong = page.evaluate(TOO_WIDE) + [f"{word} is broken" for word in page.evaluate(BROKEN)]
        if wrong:
            found[path] = wrong
    return found


def is_page(page: Page, path: str) -> bool:
    answer = page.context.request.get(path, max_redirects=0)
    return answer.status == 200 and answer.headers["content-type"].startswith("text/html")


def test_no_page_is_too_wide_for_its_window_and_no_figure_is_broken(
    world: HostileWorld, browser: Browser, live_server: Any
) -> None:
    for width in (DESK, TELEPHONE):
        for user, of_interest in ((world.mira, "/"), (world.bob, "/submissions/"), (None, "/signup/")):
            page = new_page(browser, live_server.url, user, width=width)
            page.route("**/playground/api/models", lambda route: route.fulfill(json=MODELS))
            paths = [path for path in page_paths() if path.startswith(of_interest) and is_page(page, path)]
            assert len(paths) >= {"/": 35, "/submissions/": 5, "/signup/": 1}[of_interest], paths
            assert complaints(page, paths) == {}, (width, user)
            page.context.close()
