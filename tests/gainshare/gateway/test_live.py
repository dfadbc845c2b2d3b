"""The gateway with the unmodified `openai` client, a real model node, a real web process and a real ledger."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from django.db import connection
from django.utils import timezone

from gainshare.accounts.services import create_api_key, revoke_api_key
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import HoldState
from gainshare.ledger.models import Hold
from tests.gainshare.gateway.gateway_stack import (
    CREDIT,
    MODEL,
    Customer,
    GatewayStack,
    assert_ledger_holds,
    bill_of,
    eventually,
    hold_of,
    request_id_of,
    running_stack,
)
from tests.model.serving.node.header_floods import FLOODS, MIB, flood
from tests.rest_contract import assert_shape, document

pytestmark = pytest.mark.slow

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[GatewayStack]:
    with django_db_blocker.unblock(), running_stack(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def customer(stack: GatewayStack) -> Customer:
    return stack.customer()


def test_models_are_listed_with_their_price(stack: GatewayStack, customer: Customer) -> None:
    client = stack.client(customer.key)
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert model.microcredits_per_million_tokens["output"] == 4_000_000  # type: ignore[attr-defined]
    assert model.price_terms["off_peak_windows"] == []  # type: ignore[attr-defined]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_whole_answer_is_billed_to_the_token(stack: GatewayStack, customer: Customer) -> None:
    answer = stack.client(customer.key).chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=7, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 7
    record = stack.record(customer.user)
    assert record.pk == request_id_of(answer)
    assert (record.status, record.completion_tokens, record.finish_reason) == ("completed", 7, "length")
    assert record.prompt_tokens == answer.usage.prompt_tokens
    assert record.charged_microcredits == bill_of(record.prompt_tokens, 7)
    assert {"queued_ms", "device_ms"} <= set(record.engine)
    assert record.prompt_hour is not None and sum(tokens for _, _, tokens in record.output_hours) == 7
    assert record.kv_bytes_per_token == 512 and record.kv_byte_ms > 0
    hold = hold_of(record)
    assert (hold.state, hold.settled) == (HoldState.SETTLED, record.charged_microcredits)
    assert ledger.balance(customer.user).available == 10 * CREDIT - record.charged_microcredits
    assert_ledger_holds()


def test_a_streamed_answer_is_the_same_answer_without_the_internals(
    stack: GatewayStack, customer: Customer
) -> None:
    client = stack.client(customer.key)
    settings: dict[str, Any] = {
        "model": MODEL,
        "messages": HELLO,
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **settings)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    *pieces, last = chunks
    assert all(piece.usage is None for piece in pieces)
    assert last.choices == [] and last.usage is not None and whole.usage is not None
    assert last.usage.to_dict() == whole.usage.to_dict()
    assert "gainshare" not in last.usage.to_dict()


def test_several_answers_are_held_for_and_billed_together(stack: GatewayStack, customer: Customer) -> None:
    client = stack.client(customer.key)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=5,
        n=3,
        logprobs=True,
        top_logprobs=1,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None and len(choice.logprobs.content or []) == 5
    assert answer.usage is not None and answer.usage.completion_tokens == 15
    record = stack.record(customer.user)
    assert (record.max_tokens, record.completion_tokens, record.finish_reason) == (15, 15, "length")
    assert record.hold_microcredits == bill_of(record.prompt_tokens, 15) == record.charged_microcredits
    assert_ledger_holds()


def test_several_answers_share_what_the_balance_affords(stack: GatewayStack) -> None:
    poor = stack.customer(balance=bill_of(40, 9))
    answer = stack.client(poor.key).chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=400, n=2, extra_body={"ignore_eos": True}
    )
    record = stack.record(poor.user)
    assert answer.usage is not None and record.max_tokens % 2 == 0
    assert 0 < answer.usage.completion_tokens == record.max_tokens < 800
    assert_ledger_holds()


def test_answers_keep_to_a_schema(stack: GatewayStack, customer: Customer) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema, "strict": True}}
    answer = stack.client(customer.key).chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=300, seed=3, response_format=form
    )
    assert json.loads(answer.choices[0].message.content or "") == {"a": 1}


def test_a_cached_beginning_is_cheaper_for_its_own_account_only(
    stack: GatewayStack, customer: Customer
) -> None:
    other = stack.customer()
    ask: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "A beginning that comes again and again. " * 5}],
        "max_tokens": 1,
    }
    cached = []
    for key in (customer.key, customer.key, other.key):
        usage = stack.client(key).chat.completions.create(**ask).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == cached[2] == 0 < (cached[1] or 0)
    eventually(lambda: UsageRecord.objects.filter(user=customer.user, settled_at__isnull=False).count() == 2)
    first, second = UsageRecord.objects.filter(user=customer.user).order_by("created_at")
    assert second.cached_tokens == cached[1] and second.charged_microcredits < first.charged_microcredits
    assert_ledger_holds()


def test_usage_is_left_out_of_a_stream_that_did_not_ask_for_it(
    stack: GatewayStack, customer: Customer
) -> None:
    with httpx.stream(
        "POST",
        f"{stack.base_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {customer.key}"},
        json={"model": MODEL, "messages": HELLO, "max_tokens": 3, "stream": True},
        trust_env=False,
    ) as response:
        body = response.read().decode()
    assert response.headers["content-type"] == "text/event-stream"
    assert UUID(response.headers["x-gainshare-request-id"]) == stack.record(customer.user).pk
    assert "usage" not in body and "gainshare" not in body
    assert body.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "prompt", "shape"),
    [("chat/completions", {"messages": HELLO}, "Chat"), ("completions", {"prompt": "Once"}, "Completion")],
)
def test_answers_are_as_documented_and_streams_are_neither_compressed_nor_held_back(
    stack: GatewayStack, customer: Customer, path: str, prompt: dict[str, Any], shape: str
) -> None:
    address = f"{stack.base_url}/v1/{path}"
    body = {"model": MODEL, **prompt, "max_tokens": 200, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {customer.key}", "Accept-Encoding": "gzip, br"}
    assert_shape("ServedModels", stack.get("/v1/models", customer.key))
    whole = httpx.post(address, headers=headers, json=body, trust_env=False, timeout=60)
    assert_shape(f"{shape}Answer", whole.json())
    refused = httpx.post(address, headers=headers, json=body | {"n": 0}, trust_env=False)
    assert_shape("ModelError", refused.json())
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream(
        "POST", address, headers=headers, json=streamed, trust_env=False, timeout=60
    ) as response:
        assert "content-encoding" not in response.headers
        named = document()["paths"][f"/v1/{path}"]["post"]["responses"]["200"]["headers"]
        assert all(name in response.headers for name in named)
        pieces = list(response.iter_raw())
    events = [event.removeprefix(b"data: ") for event in b"".join(pieces).split(b"\n\n")]
    assert events[-2:] == [b"[DONE]", b""] and len(events) > 50
    assert pieces[0].count(b"\n\n") < len(events) / 2
    for event in events[:-2]:
        assert_shape(f"{shape}Chunk", json.loads(event))


def test_completions_take_text_and_end_after_sixteen_tokens(stack: GatewayStack, customer: Customer) -> None:
    client = stack.client(customer.key)
    answer = client.completions.create(model=MODEL, prompt="Once", extra_body={"ignore_eos": True})
    assert answer.usage is not None and answer.usage.completion_tokens == 16
    assert isinstance(answer.choices[0].text, str)
    chunks = list(client.completions.create(model=MODEL, prompt="Once", stream=True, max_tokens=3))
    assert chunks[-1].choices[0].finish_reason in {"length", "stop"}


def test_the_bill_is_shown_line_by_line_to_its_owner_only(stack: GatewayStack, customer: Customer) -> None:
    answer = stack.client(customer.key).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4)
    request_id = request_id_of(answer)
    detail = stack.get(f"/api/v1/usage/{request_id}/", customer.key)
    assert [line["item"] for line in detail["bill_lines"]] == ["cached_input", "fresh_input", "output"]
    assert sum(line["amount"] for line in detail["bill_lines"]) == detail["charged_microcredits"] > 0
    assert detail["settled_at"] is not None
    assert stack.get("/api/v1/usage/", customer.key)["count"] == 1
    other = stack.customer()
    assert stack.get(f"/api/v1/usage/{request_id}/", other.key)["error"]["code"] == "not_found"
    assert stack.get("/api/v1/usage/", other.key)["count"] == 0


def test_wrong_revoked_and_expired_keys_are_refused(stack: GatewayStack, customer: Customer) -> None:
    wrong = customer.key[:-1] + ("0" if customer.key[-1] != "0" else "1")
    short, raw = create_api_key(
        user=customer.user,
        name="short",
        scopes=["inference"],
        expires_at=timezone.now() + timedelta(milliseconds=300),
    )
    revoke_api_key(user=customer.user, prefix=customer.prefix)
    time.sleep(0.4)  # until the short-lived key has expired
    for key in (wrong, customer.key, raw, "sk-other", "gs_x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            stack.client(key).chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.code == "invalid_api_key"
        assert key not in str(caught.value)
    missing = httpx.post(f"{stack.base_url}/v1/chat/completions", json={}, trust_env=False)
    assert (missing.status_code, missing.json()["error"]["code"]) == (401, "invalid_api_key")
    assert not UsageRecord.objects.filter(user=customer.user).exists()
    assert short.prefix in raw


def test_a_key_that_was_just_good_stops_working_when_revoked(stack: GatewayStack, customer: Customer) -> None:
    client = stack.client(customer.key)
    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    revoke_api_key(user=customer.user, prefix=customer.prefix)
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert UsageRecord.objects.filter(user=customer.user).count() == 1


def test_what_is_wrong_with_a_body_is_not_told_to_strangers(stack: GatewayStack) -> None:
    with pytest.raises(openai.AuthenticationError):
        stack.client("gs_unknown").chat.completions.create(model=MODEL, messages=[])


def test_a_model_without_a_price_is_not_sold(stack: GatewayStack, customer: Customer) -> None:
    def rename(old: str, new: str) -> None:
        """Prices never change, says a trigger; this test sets it aside."""
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute("UPDATE ledger_priceversion SET model = %s WHERE model = %s", [new, old])
            cursor.execute("SET session_replication_role = origin")

    client = stack.client(customer.key)
    rename(MODEL, "elsewhere")
    try:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert client.models.list().data == []
    finally:
        rename("elsewhere", MODEL)
    assert caught.value.code == "model_not_priced"
    assert not Hold.objects.filter(user=customer.user).exists()


def test_a_session_cookie_opens_nothing(stack: GatewayStack, customer: Customer) -> None:
    answer = httpx.get(f"{stack.base_url}/v1/models", cookies={"sessionid": "x"}, trust_env=False)
    assert answer.status_code == 401


def test_a_key_without_the_scope_is_refused(stack: GatewayStack) -> None:
    reader = stack.customer(scopes=["read"])
    with pytest.raises(openai.PermissionDeniedError) as caught:
        stack.client(reader.key).models.list()
    assert caught.value.code == "insufficient_scope"


def test_no_credits_is_said_once_and_not_retried(stack: GatewayStack) -> None:
    poor = stack.customer(balance=0)
    client = stack.client(poor.key, max_retries=3)
    started = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert time.monotonic() - started < 5
    assert not Hold.objects.filter(user=poor.user).exists()


def test_the_answer_is_as_long_as_the_balance_affords(stack: GatewayStack) -> None:
    nearly_poor = stack.customer(balance=50)
    client = stack.client(nearly_poor.key)
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, max_tokens=300, extra_body={"ignore_eos": True}
    ) as response:
        allowed = int(response.headers["X-Gainshare-Max-Tokens"])
        answer = response.parse()
    record = stack.record(nearly_poor.user)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == allowed == (50 - record.prompt_tokens) // 4
    assert 0 <= ledger.balance(nearly_poor.user).available < 4


def test_an_overlong_prompt_is_refused_before_anything_is_held(
    stack: GatewayStack, customer: Customer
) -> None:
    client = stack.client(customer.key)
    for settings in (
        {"messages": [{"role": "user", "content": "x" * 2000}]},
        {"messages": HELLO, "max_tokens": 100_000},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, **settings)  # type: ignore[call-overload]
        assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as too_large:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 5_000_000}])
    assert too_large.value.status_code == 413
    assert not Hold.objects.filter(user=customer.user).exists()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 17}, "n"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"extra_body": {"colour": "blue"}}, "colour"),
    ],
)
def test_impossible_settings_are_refused(
    stack: GatewayStack, customer: Customer, settings: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stack.client(customer.key).chat.completions.create(model=MODEL, messages=HELLO, **settings)
    assert caught.value.param == param
    assert not UsageRecord.objects.filter(user=customer.user).exists()


def test_unknown_models_and_addresses_answer_in_openais_shape(
    stack: GatewayStack, customer: Customer
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stack.client(customer.key).chat.completions.create(model="gpt-5", messages=HELLO)
    assert caught.value.code == "model_not_found"
    for method, path, status in (
        ("GET", "/v1/assistants", 404),
        ("POST", "/v1/", 404),
        ("DELETE", "/v1/models/tiny", 405),
    ):
        answer = httpx.request(method, f"{stack.base_url}{path}", trust_env=False)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_leaving_mid_stream_stops_the_node_and_bills_what_was_generated(
    stack: GatewayStack, customer: Customer
) -> None:
    stream = stack.client(customer.key).chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, max_tokens=480, extra_body={"ignore_eos": True}
    )
    seen = 0
    for chunk in stream:
        seen += bool(chunk.choices and chunk.choices[0].delta.content is not None)
        if seen == 5:
            break
    stream.close()
    record = stack.record(customer.user)
    assert record.status == RequestStatus.CANCELLED
    assert 4 <= record.completion_tokens < 480
    assert record.charged_microcredits == bill_of(record.prompt_tokens, record.completion_tokens)
    assert_node_is_idle(stack)
    assert_ledger_holds()


def test_leaving_a_whole_answer_stops_the_node_too(stack: GatewayStack, customer: Customer) -> None:
    with pytest.raises(openai.APITimeoutError):
        stack.client(customer.key, timeout=0.2).chat.completions.create(
            model=MODEL, messages=HELLO, n=16, max_tokens=480, extra_body={"ignore_eos": True}
        )
    record = stack.record(customer.user)
    assert record.status == RequestStatus.CANCELLED
    assert record.completion_tokens < 16 * 480
    assert record.charged_microcredits == bill_of(
        record.prompt_tokens if record.completion_tokens else 0, record.completion_tokens
    )
    assert_node_is_idle(stack)


def test_thirty_streams_of_one_account_never_overdraw_it(stack: GatewayStack) -> None:
    """Each would hold the whole balance: some get a share, the others are told that they cannot pay."""
    busy = stack.customer(balance=1200)

    def ask(_: int) -> int | None:
        try:
            chunks = stack.client(busy.key).chat.completions.create(
                model=MODEL,
                messages=HELLO,
                max_tokens=20,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            usage = list(chunks)[-1].usage
        except openai.RateLimitError:
            return None
        assert usage is not None
        return bill_of(usage.prompt_tokens, usage.completion_tokens)

    with ThreadPoolExecutor(30) as pool:
        bills = list(pool.map(ask, range(30)))
    paid = [bill for bill in bills if bill is not None]
    assert len(paid) >= 10
    eventually(lambda: not Hold.objects.filter(user=busy.user, state=HoldState.OPEN).exists())
    balance = ledger.balance(busy.user)
    assert balance.available == 1200 - sum(paid) >= 0
    assert balance.held == 0
    assert_ledger_holds()


def assert_node_is_idle(stack: GatewayStack) -> None:
    """Nothing is being generated any more, well before the answer could have ended."""

    def is_idle() -> bool:
        state = httpx.get(stack.node.health, trust_env=False).json()
        return bool(state["running"] == 0 and state["waiting"] == 0)

    eventually(is_idle, within_s=5, what="an idle node")


@pytest.mark.parametrize("kind", FLOODS)
def test_64_mib_of_headers_cost_the_site_next_to_nothing(stack: GatewayStack, kind: str) -> None:
    assert stack.web.child is not None
    cost = flood(int(stack.base_url.rpartition(":")[2]), stack.web.child.pid, *FLOODS[kind])
    assert cost.sent_bytes < 16 * MIB and cost.cpu_s < 0.5 and cost.grown_bytes < 8 * MIB, cost
    if cost.answer and "chunk" not in kind and kind != "trailers":
        assert cost.answer.startswith(b"HTTP/1.1 431 ") and b"headers_too_large" in cost.answer
