"""The playground in a real browser when the network, a proxy or the site fails: no question is lost, each failure is told."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from gainshare.accounts.services import create_user
from tests.chromium import Watch, new_page, started_chromium

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

ID = "11111111-2222-3333-4444-555555555555"
FRANCE = "What is the capital of France?"
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_chromium() as chromium:
        yield chromium


def event(**chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def said(text: str) -> str:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


FINGERPRINT = "fp_aaaaaaaaaaaa"
WHOLE = (
    said("It is ")
    + said("Paris.")
    + event(choices=[], usage=USAGE, system_fingerprint=FINGERPRINT)
    + "data: [DONE]\n\n"
)


class Playground:
    """The page with the site's answers invented by the test. `sent` holds the bodies of what the page asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sent: list[dict[str, Any]] = []
        self.balances = ["10"]
        self.answers: list[Any] = []
        page.route("**/playground/api/models", self._models)
        page.route("**/playground/balance/", self._balance)
        page.route("**/playground/api/chat/completions", self._chat)

    def _models(self, route: Route) -> None:
        route.fulfill(json={"object": "list", "data": [{"id": "tiny"}]})

    def _balance(self, route: Route) -> None:
        has_holds = len(self.balances) > 1
        available = self.balances.pop(0) if has_holds else self.balances[0]
        route.fulfill(json={"available": available, "has_holds": has_holds})

    def _chat(self, route: Route) -> None:
        self.sent.append(route.request.post_data_json)
        answer = self.answers.pop(0)
        if answer == "lost":
            route.abort("connectionfailed")
        elif isinstance(answer, str):
            headers = {"Content-Type": "text/event-stream", "X-Gainshare-Request-Id": ID}
            route.fulfill(status=200, headers=headers, body=answer)
        else:
            route.fulfill(**answer)

    def ask(self, text: str, *answers: Any) -> None:
        """Ask; the first answer is to this question, further ones to what is asked next."""
        self.answers += answers
        expect(self.page.get_by_label("Model")).to_be_enabled()
        self.question.fill(text)
        self.page.get_by_role("button", name="Send").click()

    @property
    def question(self) -> Any:
        return self.page.get_by_label("Your message")

    @property
    def error(self) -> Any:
        return self.page.locator(".bubble-error")

    @property
    def answer(self) -> Any:
        return self.page.locator(".bubble-assistant")


@pytest.fixture
def playground(browser: Browser, live_server: Any) -> Iterator[Playground]:
    user = create_user(username="kim", password="correct horse battery")
    page = new_page(browser, live_server.url, user)
    watch = Watch(page, live_server.url)
    shown = Playground(page)
    page.goto("/playground/")
    yield shown
    assert [text for text in watch.complaints if "Failed to load resource" not in text] == []
    page.context.close()


def test_the_first_try_is_exact_and_needs_nothing_but_the_question(playground: Playground) -> None:
    playground.ask(FRANCE, WHOLE)
    expect(playground.answer).to_contain_text("It is Paris.")
    expect(playground.answer).to_contain_text("12 + 3 tokens, tree aaaaaaaaaaaa, see the bill")
    (body,) = playground.sent
    assert body["temperature"] == 0 and body["max_tokens"] == 256
    assert body["messages"] == [{"role": "user", "content": FRANCE}]


def test_empty_number_fields_are_left_out(playground: Playground) -> None:
    playground.page.get_by_label("Temperature").fill("")
    playground.page.get_by_label("Maximum answer length").fill("")
    playground.ask(FRANCE, WHOLE)
    expect(playground.answer).to_contain_text("Paris")
    assert not {"temperature", "max_tokens"} & set(playground.sent[0])


def test_a_number_out_of_range_is_not_sent(playground: Playground) -> None:
    playground.page.get_by_label("Maximum answer length").fill("0")
    playground.ask(FRANCE)
    expect(playground.page.get_by_label("Maximum answer length")).to_be_focused()
    expect(playground.question).to_have_value(FRANCE)
    assert playground.sent == []


def test_a_lost_network_keeps_the_question_and_offers_it_again(playground: Playground) -> None:
    playground.ask(FRANCE, "lost", WHOLE)
    expect(playground.error).to_contain_text("could not be reached")
    expect(playground.question).to_have_value(FRANCE)
    playground.page.get_by_role("button", name="Ask again").click()
    expect(playground.answer).to_contain_text("Paris")
    expect(playground.question).to_have_value("")
    expect(playground.error).to_have_count(0)
    expect(playground.page.locator(".bubble-user")).to_have_count(1)
    assert playground.sent[0] == playground.sent[1]


def test_what_was_typed_meanwhile_is_not_overwritten(playground: Playground) -> None:
    def while_it_waits(route: Route) -> None:
        playground.question.fill("And of Spain?")
        route.abort("connectionfailed")

    playground.page.route("**/playground/api/chat/completions", while_it_waits)
    playground.ask(FRANCE)
    expect(playground.error).to_contain_text("Your question is kept")
    expect(playground.question).to_have_value("And of Spain?")
    expect(playground.page.locator(".bubble-user")).to_have_text(FRANCE)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"status": 502, "content_type": "text/html", "body": "<html>Bad Gateway</html>"},
            "failed to answer (status 502)",
        ),
        ({"status": 502, "content_type": "application/json", "body": "<html>"}, "status 502"),
        ({"status": 403, "content_type": "text/html", "body": "<html>CSRF</html>"}, "Reload the page"),
        ({"status": 418, "content_type": "application/json", "body": '{"error": "no"}'}, "status 418"),
        (
            {"status": 200, "content_type": "text/html", "body": "<html>Log in</html>"},
            "did not come from a model",
        ),
        (
            {"status": 429, "json": {"error": {"message": "You have too few credits."}}},
            "You have too few credits.",
        ),
        ("data: <html>\n\n", "broke off"),
        ("", "broke off"),
    ],
)
def test_whatever_comes_instead_of_an_answer_is_told(playground: Playground, answer: Any, words: str) -> None:
    playground.ask(FRANCE, answer)
    expect(playground.error).to_contain_text(words)
    expect(playground.question).to_have_value(FRANCE)
    expect(playground.page.get_by_role("button", name="Send")).to_be_enabled()


def test_an_answer_that_broke_off_stays_and_can_be_asked_for_again(playground: Playground) -> None:
    playground.ask(FRANCE, said("It is "), WHOLE)
    expect(playground.error).to_contain_text("broke off")
    expect(playground.answer).to_contain_text("It is ")
    expect(playground.answer.get_by_role("link", name="see the bill")).to_have_attribute(
        "href", f"/usage/{ID}/"
    )
    playground.page.get_by_role("button", name="Ask again").click()
    expect(playground.answer).to_contain_text("It is Paris.")
    expect(playground.answer).to_have_count(1)
    assert playground.sent[1]["messages"] == [{"role": "user", "content": FRANCE}]


def test_a_question_that_failed_is_no_part_of_the_conversation(playground: Playground) -> None:
    playground.ask(FRANCE, "lost")
    expect(playground.error).to_be_visible()
    playground.ask("And of Spain?", WHOLE)
    expect(playground.answer).to_contain_text("Paris")
    expect(playground.page.locator(".bubble-user")).to_have_text("And of Spain?")
    assert playground.sent[1]["messages"] == [{"role": "user", "content": "And of Spain?"}]


def test_an_error_in_the_middle_is_told_in_the_sites_words(playground: Playground) -> None:
    playground.ask(FRANCE, said("It is ") + event(error={"message": "The model node broke off; 2 tokens."}))
    expect(playground.error).to_contain_text("The model node broke off; 2 tokens.")


def test_the_balance_follows_each_answer_and_what_is_held_comes_back(playground: Playground) -> None:
    playground.balances = ["9.5", "9.9"]
    playground.ask(FRANCE, WHOLE)
    expect(playground.page.locator("#balance")).to_have_text("9.9")
    playground.balances = ["8"]
    playground.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(playground.page.locator("#balance")).to_have_text("8")


def test_models_that_could_not_be_listed_are_asked_for_again(playground: Playground) -> None:
    page = playground.page
    html = {"status": 502, "content_type": "text/html", "body": "<html>"}
    page.route("**/playground/api/models", lambda route: route.fulfill(**html))
    page.reload()
    expect(page.locator("#settings-note")).to_contain_text("failed to answer (status 502)")
    page.unroute("**/playground/api/models")
    page.route("**/playground/api/models", playground._models)
    page.get_by_label("Your message").fill(FRANCE)
    playground.answers.append(WHOLE)
    page.get_by_role("button", name="Send").click()
    expect(playground.answer).to_contain_text("Paris")
