"""Playground requests of a logged-in user, with real web process, node and ledger; and refused callers."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import Client
from playwright.sync_api import expect

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key, create_user
from gainshare.gateway import services
from gainshare.gateway.errors import MissingScope
from gainshare.gateway.generation import PROGRESS_S
from gainshare.gateway.models import PLAYGROUND, UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import HoldState
from gainshare.ledger.models import Hold
from tests.chromium import Watch, new_page, session_of, started_chromium
from tests.gainshare.gateway.gateway_stack import (
    CREDIT,
    MODEL,
    GatewayStack,
    assert_ledger_holds,
    bill_of,
    eventually,
    hold_of,
    running_stack,
)

pytestmark = pytest.mark.slow

CHAT = "/playground/api/chat/completions"
LONG = 480  # tokens


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[GatewayStack]:
    with django_db_blocker.unblock(), running_stack(tmp_path_factory.mktemp("playground")) as running:
        yield running


@pytest.fixture
def user(stack: GatewayStack) -> User:
    return stack.customer().user


def signed_in(stack: GatewayStack, user: User) -> httpx.Client:
    """A client with the user's session, and with the CSRF token that the playground's page gave it."""
    client = httpx.Client(base_url=stack.base_url, trust_env=False, timeout=60)
    client.cookies.set("sessionid", session_of(user))
    client.get("/playground/").raise_for_status()
    client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
    return client


def question(max_tokens: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        **more,
    }


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_an_answer_costs_what_it_costs_with_a_key(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    assert [model["id"] for model in client.get("/playground/api/models").json()["data"]] == [MODEL]
    response = client.post(CHAT, json=question(temperature=0))
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.text.endswith("data: [DONE]\n\n")

    record = stack.record(user)
    assert str(record.pk) == response.headers["X-Gainshare-Request-Id"]
    assert (record.key_prefix, record.status, record.completion_tokens) == (PLAYGROUND, "completed", 7)
    assert record.charged_microcredits == bill_of(record.prompt_tokens, 7)
    assert (hold_of(record).state, hold_of(record).settled) == (
        HoldState.SETTLED,
        record.charged_microcredits,
    )
    assert ledger.balance(user).available == 10 * CREDIT - record.charged_microcredits

    by_key = stack.customer()
    stack.client(by_key.key).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=7,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    other = stack.record(by_key.user)
    assert (other.bill_lines, other.charged_microcredits) == (record.bill_lines, record.charged_microcredits)
    assert_ledger_holds()


def test_usage_says_that_it_came_from_the_playground(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    client.post(CHAT, json=question())
    record = stack.record(user)
    listed, shown = client.get("/usage/").text, client.get(f"/usage/{record.pk}/").text
    assert ">playground<" in listed and "gs_" not in listed
    assert "the playground, without a key" in shown and "gs_" not in shown
    (row,) = client.get("/api/v1/usage/").json()["results"]
    assert row["key_prefix"] == "playground"


@pytest.mark.parametrize(
    "headers",
    [{"X-CSRFToken": ""}, {"X-CSRFToken": "0" * 64}, {"Origin": "https://evil.example"}, {"Origin": "null"}],
)
def test_another_sites_page_cannot_spend_ones_credits(
    stack: GatewayStack, user: User, headers: dict[str, str]
) -> None:
    client = signed_in(stack, user)
    response = client.post(CHAT, json=question(), headers=headers)
    assert response.status_code == 403
    form = client.post(CHAT, data={"model": MODEL}, headers=headers)  # what a foreign page's form can send
    assert form.status_code == 403
    assert not UsageRecord.objects.filter(user=user).exists()
    assert not Hold.objects.filter(user=user).exists()


def test_no_one_else_is_let_in(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    _, key = create_api_key(user=user, name="test", scopes=["inference", "read"])
    client.cookies.delete("sessionid")
    for headers in ({}, {"Authorization": f"Bearer {key}"}):
        assert refusal(client.post(CHAT, json=question(), headers=headers)) == (403, "not_signed_in")
        assert refusal(client.get("/playground/api/models", headers=headers)) == (403, "not_signed_in")
    assert not UsageRecord.objects.filter(user=user).exists()


def test_the_session_opens_no_door_of_the_keys(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    assert refusal(client.post("/v1/chat/completions", json=question())) == (401, "invalid_api_key")


def test_a_session_ends_with_its_account_and_with_logging_out(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert refusal(client.post(CHAT, json=question())) == (403, "not_signed_in")
    User.objects.filter(pk=user.pk).update(is_active=True)
    assert client.post(CHAT, json=question()).status_code == 200
    cookie = client.cookies["sessionid"]
    assert client.post("/logout/").status_code == 302
    client.cookies.set("sessionid", cookie, domain="127.0.0.1")
    assert refusal(client.post(CHAT, json=question())) == (403, "not_signed_in")
    assert UsageRecord.objects.filter(user=user).count() == 1


def test_a_disabled_account_ends_the_answer_that_is_being_written(stack: GatewayStack) -> None:
    for _ in range(10):  # again where the node was done before it was stopped
        user = stack.customer().user
        with signed_in(stack, user).stream("POST", CHAT, json=question(LONG)) as response:
            lines = response.iter_lines()
            next(lines)
            assert stack.node.child is not None
            os.kill(stack.node.child.pid, signal.SIGSTOP)
            try:
                User.objects.filter(pk=user.pk).update(is_active=False)
                time.sleep(2.5 * PROGRESS_S)
            finally:
                os.kill(stack.node.child.pid, signal.SIGCONT)
            last = [line for line in lines if line][-1]
        if last != "data: [DONE]":
            break
    assert '"code":"invalid_api_key"' in last and "account disabled" in last
    record = stack.record(user)
    assert record.error_code == "invalid_api_key" and record.completion_tokens < LONG
    assert record.charged_microcredits == bill_of(record.prompt_tokens, record.completion_tokens)
    assert_ledger_holds()


def test_who_leaves_in_the_middle_pays_for_what_came(stack: GatewayStack, user: User) -> None:
    with signed_in(stack, user).stream("POST", CHAT, json=question(LONG)) as response:
        next(response.iter_lines())
    record = stack.record(user)
    assert (record.status, hold_of(record).state) == ("cancelled", HoldState.SETTLED)
    assert 0 < record.completion_tokens < LONG
    assert_ledger_holds()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stream": False}, (400, "invalid_value")),
        ({"model": "gpt-5"}, (404, "model_not_found")),
        ({"temperature": 9}, (400, "decimal_above_max_value")),
        ({"max_tokens": 0}, (400, "integer_below_min_value")),
        ({"max_tokens": 10**6}, (400, "context_length_exceeded")),
        ({"unheard_of": 1}, (400, "unknown_parameter")),
    ],
)
def test_the_limits_are_those_of_a_key(
    stack: GatewayStack, user: User, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    client = signed_in(stack, user)
    assert refusal(client.post(CHAT, json={**question(), **changes})) == expected
    assert ledger.balance(user).available == 10 * CREDIT


def test_a_body_beyond_any_prompt_and_another_method_are_refused(stack: GatewayStack, user: User) -> None:
    client = signed_in(stack, user)
    assert refusal(client.post(CHAT, content=b" " * (5 << 20))) == (413, "request_too_large")
    assert refusal(client.get(CHAT)) == (405, "method_not_allowed")


def test_without_credits_nothing_is_written(stack: GatewayStack) -> None:
    user = stack.customer(balance=0).user
    assert refusal(signed_in(stack, user).post(CHAT, json=question())) == (429, "insufficient_quota")
    assert not UsageRecord.objects.filter(user=user).exists()


@pytest.mark.django_db
def test_a_role_that_may_not_use_models_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    user = create_user(username="kim", password="a-long-enough-secret")
    assert services.visitor(user=user).key_prefix == PLAYGROUND
    monkeypatch.setattr(User, "allowed_scopes", frozenset({"read"}))
    with pytest.raises(MissingScope):
        services.visitor(user=user)


@pytest.mark.django_db
def test_no_key_can_pass_for_the_playground() -> None:
    user = create_user(username="kim", password="a-long-enough-secret")
    key, _ = create_api_key(user=user, name="playground", scopes=["inference"])
    assert set(key.prefix) <= set("0123456789abcdef") and not set(PLAYGROUND) <= set("0123456789abcdef")


@pytest.mark.django_db
def test_the_page_has_no_secret_and_shows_the_users_own_balance() -> None:
    user = create_user(username="kim", password="a-long-enough-secret")
    client = Client()
    assert client.get("/playground/balance/").status_code == 302
    client.force_login(user)
    page = client.get("/playground/").content.decode()
    assert "gs_" not in page and 'type="password"' not in page
    answer = client.get("/playground/balance/")
    assert answer.json() == {"available": "0", "has_holds": False}
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_a_person_asks_without_a_key_and_sees_the_balance_go_down(stack: GatewayStack, user: User) -> None:
    with started_chromium() as browser:
        page = new_page(browser, stack.base_url, user)
        watch = Watch(page, stack.base_url)
        page.goto("/playground/")
        expect(page.locator("#balance")).to_have_text("10")
        page.get_by_label("Maximum answer length").fill("5")
        page.get_by_label("Your message").fill("Hello")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".bubble-assistant .meta")).to_contain_text("tokens", timeout=60_000)
        record = stack.record(user)
        left = f"{10 - record.charged_microcredits / CREDIT:.6f}".rstrip("0")
        expect(page.locator("#balance")).to_have_text(left)
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0

        # A new token, as after logging in again in another tab, and a session that has ended.
        page.context.clear_cookies(name="csrftoken")
        page.context.request.get("/login/")
        page.get_by_label("Your message").fill("Again")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".bubble-assistant .meta")).to_have_count(2, timeout=60_000)
        assert watch.complaints == []
        page.context.clear_cookies(name="sessionid")
        page.get_by_label("Your message").fill("And now?")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".bubble-error")).to_contain_text("You are logged out")
        expect(page.get_by_label("Your message")).to_have_value("And now?")
    eventually(lambda: not Hold.objects.filter(user=user, state=HoldState.OPEN).exists())
