"""The model node over real HTTP with the tiny random model, asked by the unmodified openai client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import httpx
import openai
import pytest

from model.serving.metering.generation import EngineLimits
from model.serving.node import command
from model.serving.node.command import main
from model.serving.node.served import ServedModel
from tests.model.serving.node.node_in_process import ServedNode, bundled, serving

pytestmark = pytest.mark.slow

TOKEN = "node-token-for-tests"
QUESTION: list[Any] = [{"role": "user", "content": "What does a random model say?"}]


@pytest.fixture(scope="module")
def node() -> Iterator[ServedNode]:
    with serving(bundled(), token=TOKEN) as node:
        yield node


@pytest.fixture
def client(node: ServedNode) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key=TOKEN, max_retries=0, timeout=60)


@pytest.fixture
def raw(node: ServedNode) -> httpx.Client:
    return httpx.Client(base_url=node.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)


def wait_until_idle(raw: httpx.Client, timeout_s: float = 30) -> dict[str, int]:
    for _ in range(int(timeout_s * 50)):
        stats: dict[str, int] = raw.get("/stats").json()
        if stats["running"] == stats["waiting"] == 0:
            return stats
        time.sleep(0.02)
    raise AssertionError(f"the engine did not get idle: {stats}")


def wait_until_running(raw: httpx.Client) -> None:
    while raw.get("/stats").json()["running"] == 0:
        pass


def test_models_say_that_tiny_is_random(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    extra = model.model_extra or {}
    assert extra["metadata"]["is_random"] is True and "random weights" in extra["metadata"]["description"]
    assert extra["max_context"] == 512
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_whole_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=12, seed=4)
    assert answer.object == "chat.completion" and answer.model == "tiny"
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    counters = (answer.usage.model_extra or {})["gainshare"]
    assert {"queued_ms", "prefill_ms", "decode_ms", "device_ms", "kv_byte_ms"} <= set(counters)
    assert all(isinstance(value, int) and value >= 0 for value in counters.values())
    assert counters["device_ns"] > 0


def test_a_streamed_chat_equals_the_whole_one_and_carries_usage(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 40, "seed": 5}
    whole = client.chat.completions.create(**ask)
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks) and counts == sorted(counts)


def test_usage_is_only_sent_where_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_stream_ends_with_done(raw: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "abc", "max_tokens": 3, "stream": True}
    answer = raw.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_completions_take_text_and_token_ids(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(prompt="abc", **ask)
    ids = client.completions.create(prompt=[97, 98, 99], **ask)
    assert text.object == "text_completion" and text.choices[0].text == ids.choices[0].text != ""
    streamed = client.completions.create(prompt="abc", stream=True, **ask)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text.choices[0].text
    default = client.completions.create(prompt="abc", model="tiny", seed=1, extra_body={"ignore_eos": True})
    assert default.usage is not None and default.usage.completion_tokens == 16


def test_sampling_settings_reach_the_sampler(client: openai.OpenAI) -> None:
    def ask(**settings: Any) -> str:
        extra = {"top_k": settings.pop("top_k", 0), "ignore_eos": True}
        answer = client.completions.create(
            model="tiny", prompt="abc", max_tokens=30, extra_body=extra, **settings
        )
        return answer.choices[0].text

    greedy = ask(temperature=0)
    assert ask(temperature=1, top_k=1) == ask(temperature=1, top_p=1e-9) == greedy
    assert ask(seed=1) == ask(seed=1) != ask(seed=2)


def test_stop_token_ids_and_min_tokens_decide_where_an_answer_ends(client: openai.OpenAI) -> None:
    def answer(**fields: Any) -> Any:
        return client.completions.create(
            model="tiny", prompt="abc", max_tokens=8, seed=4, extra_body={"ignore_eos": True, **fields}
        )

    every = list(range(261))
    assert answer().usage.completion_tokens == 8
    at_once = answer(stop_token_ids=every)
    assert (at_once.choices[0].text, at_once.choices[0].finish_reason) == ("", "stop")
    assert at_once.usage.completion_tokens == 1
    held = answer(stop_token_ids=every[1:], min_tokens=5)
    assert (held.choices[0].text, held.choices[0].finish_reason) == ("\0" * 5, "stop")


def test_stop_strings_cut_the_answer(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {
        "model": "tiny",
        "prompt": "abc",
        "max_tokens": 60,
        "seed": 3,
        "extra_body": {"ignore_eos": True},
    }
    text = client.completions.create(**ask).choices[0].text
    stop = next(c for c in text[5:] if c.isascii() and c.isprintable())
    cut = client.completions.create(**ask, stop=[stop, "never-said"])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (text[: text.index(stop)], "stop")


def test_many_clients_at_once_each_get_their_own_answer(client: openai.OpenAI, raw: httpx.Client) -> None:
    def ask(seed: int) -> tuple[str, int]:
        answer = client.completions.create(
            model="tiny",
            prompt="p" * (seed * 17 % 300 + 1),
            max_tokens=20,
            seed=seed,
            extra_body={"ignore_eos": True},
        )
        assert answer.usage is not None
        return answer.choices[0].text, (answer.usage.model_extra or {})["gainshare"]["device_ns"]

    busy_before = wait_until_idle(raw)["busy_ns"]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(24)))
    busy = wait_until_idle(raw)["busy_ns"] - busy_before
    assert sum(device_ns for _, device_ns in together) == busy
    assert [text for text, _ in together] == [ask(seed)[0] for seed in range(24)]


def test_tokenize_counts_what_a_prompt_costs(raw: httpx.Client, client: openai.OpenAI) -> None:
    counted = raw.post("/tokenize", json={"model": "tiny", "messages": QUESTION}).json()
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1)
    assert answer.usage is not None
    assert counted == {"count": answer.usage.prompt_tokens, "max_context": 512}
    assert raw.post("/tokenize", json={"model": "tiny", "prompt": "héé"}).json()["count"] == 5


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -3}, "top_k", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 5000}, "messages", "context_length_exceeded"),
        ({"n": 0}, "n", "invalid_value"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens", "invalid_value"),
        ({"stop_token_ids": [261]}, "stop_token_ids", "invalid_value"),
        ({"stop_token_ids": list(range(261)), "min_tokens": 1}, "min_tokens", "invalid_value"),
        ({"logit_bias": {"261": 1}}, "logit_bias", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"frequency_penalty": 5}, "frequency_penalty", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "color"}}}},
            "response_format",
            "invalid_value",
        ),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": 5}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "messages", "context_length_exceeded"),
        ({"model": None}, "model", "missing_model"),
    ],
)
def test_impossible_requests_are_refused_by_name(
    raw: httpx.Client, change: dict[str, Any], param: str, code: str
) -> None:
    body = {"model": "tiny", "messages": QUESTION, **change}
    answer = raw.post("/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert error["message"]


def test_prompts_of_the_wrong_kind_are_refused(raw: httpx.Client) -> None:
    for prompt in ("", [], ["a", "b"], [1.5], [True], [99999], [-1], None, {"a": 1}):
        answer = raw.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt"), prompt


def test_unused_settings_and_unknown_fields_are_accepted(raw: httpx.Client) -> None:
    unused = {"n": 1, "logprobs": False, "tools": [], "logit_bias": {}, "response_format": {"type": "text"}}
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 2, "user": "u-1", "made_up": 1, **unused}
    assert raw.post("/v1/chat/completions", json=body).status_code == 200


def test_unknown_model_unknown_path_and_bad_json_have_openais_shape(raw: httpx.Client) -> None:
    unknown = raw.post("/v1/chat/completions", json={"model": "gpt-9", "messages": QUESTION})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert raw.get("/nothing").json()["error"]["code"] == "not_found"
    wrong_method = raw.get("/v1/completions")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    assert wrong_method.json()["error"]["code"] == "method_not_allowed"
    for content in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        answer = raw.post("/v1/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
        assert answer.json()["error"]["param"] is None, "no field is at fault"
    large = raw.post("/v1/completions", content=b" " * (5 << 20))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


def test_everything_but_health_needs_the_token(node: ServedNode) -> None:
    assert httpx.get(f"{node.url}/health").json()["status"] == "ok"
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer é".encode()},
    ):
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/stats"),
            ("POST", "/tokenize"),
            ("POST", "/v1/completions"),
        ):
            answer = httpx.request(method, node.url + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
            assert TOKEN not in answer.text


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_its_generation_at_once(
    node: ServedNode, raw: httpx.Client, streamed: bool
) -> None:
    """Closing the socket frees the engine long before all tokens of sixteen answers are there."""
    wait_until_idle(raw)
    body = {
        "model": "tiny",
        "prompt": "a",
        "max_tokens": 500,
        "n": 16,
        "stream": streamed,
        "ignore_eos": True,
    }
    payload = json.dumps(body).encode()
    host, port = node.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(payload)}\r\n\r\n"
    steps = []
    for _ in range(5):
        before = raw.get("/stats").json()["steps"]
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + payload)
            if streamed:
                assert connection.recv(64).startswith(b"HTTP/1.1 200")
            else:
                wait_until_running(raw)
        steps.append(wait_until_idle(raw)["steps"] - before)
    assert sorted(steps)[2] < 500 / 2, f"half of the abandoned generations ran on: {steps}"
    assert raw.post("/v1/completions", json=body | {"stream": False}).status_code == 200


def test_a_full_queue_answers_429_stays_ready_and_recovers() -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 450, "ignore_eos": True}
    with serving(bundled(EngineLimits(max_running=1, max_waiting=1))) as node, ThreadPoolExecutor(12) as pool:
        url = f"{node.url}/v1/completions"
        asked = [pool.submit(httpx.post, url, json=body, timeout=60) for _ in range(12)]
        while not httpx.get(f"{node.url}/stats", timeout=60).json()["waiting"]:
            assert not all(each.done() for each in asked), "none of twelve waited"
        assert httpx.get(f"{node.url}/ready", timeout=60).status_code == 200
        answers = [each.result() for each in asked]
        after = httpx.post(url, json={**body, "max_tokens": 1}, timeout=60)
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
    assert after.status_code == 200


def test_health_is_503_while_the_model_loads(start_node: Callable[..., Any]) -> None:
    node = start_node("--model", "tiny", wait=False)
    statuses = []
    for _ in range(2000):
        answer = httpx.get(f"{node.url}/health", timeout=60)
        statuses.append((answer.status_code, answer.json()["status"]))
        if answer.status_code == 200:
            break
        time.sleep(0.01)
    assert statuses[-1] == (200, "ok")
    assert set(statuses[:-1]) <= {(503, "loading")}


def test_start_up_problems_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*options])
        assert ended.value.code == 2
        return capsys.readouterr().err

    missing = refused("--model", "smollm2-moe", "--home", str(tmp_path), "--port", "0")
    assert "`gainshare model fetch smollm2` fetches smollm2-moe" in missing
    assert "`gainshare model fetch smollm2-small` smollm2-moe-small" in missing
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = refused("--model", "tiny", "--port", str(taken.getsockname()[1]))
    assert "choose another port with --port" in busy
    (tmp_path / "empty").write_text("\n")
    assert "contains no token" in refused("--model", "tiny", "--token-file", str(tmp_path / "empty"))
    assert "--upstream" in refused("--port", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "-1"], "argument --threads: must be a whole number, at least 1, not '-1'"),
        (["--threads", "many"], "argument --threads: must be a whole number, at least 1, not 'many'"),
        (["--port", "70000"], "argument --port: must be a whole number, 0 to 65535, not '70000'"),
        (["--max-running", "0"], "argument --max-running: must be a whole number, at least 1"),
        (["--max-running", "300"], "--max-running 300 must be below --step-tokens 256"),
        (["--step-tokens", "16"], "--max-running 16 must be below --step-tokens 16"),
        (["--max-waiting", "0"], "argument --max-waiting: must be a whole number, at least 1"),
        (["--max-drafts", "-1"], "argument --max-drafts: must be a whole number, at least 0"),
        (["--drain-s", "-1"], "argument --drain-s: must be a number of at least 0, not '-1'"),
        (["--drain-s", "nan"], "argument --drain-s: must be a number of at least 0, not 'nan'"),
        (["--cache-gib", "0"], "argument --cache-gib: must be a number above 0, not '0'"),
        (
            ["--cache-gib", "1e-6"],
            "holds no block of 16 tokens of this model (4096 bytes): give the node more",
        ),
        (["--tensor-parallel", "0"], "argument --tensor-parallel: must be a whole number, at least 1"),
        (["--tensor-parallel", "3"], "n_heads (4) is not a multiple of tp (3)"),
        (
            ["--hot-experts", "99", "--accelerator", "cpu"],
            "--hot-experts 99 is not possible: tiny has 8 experts per layer",
        ),
        (["--accelerator", "cuda"], "--accelerator is the device of --hot-experts"),
        (["--upstream", "http://127.0.0.1:9/v1", "--max-context", "0"], "argument --max-context: must be"),
    ],
)
def test_options_that_cannot_work_end_with_2_before_anything_is_loaded(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "listen", lambda *_: pytest.fail("the node began to serve"))
    with pytest.raises(SystemExit) as ended:
        main(["--model", "tiny", "--port", "0", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_limits_of_steps_and_cache_are_the_nodes_options(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[EngineLimits] = []

    class StopHereError(Exception):
        """Enough was seen."""

    def stop(_: ServedModel, given: EngineLimits, __: object) -> NoReturn:
        limits.append(given)
        raise StopHereError

    monkeypatch.setattr(command, "Service", stop)
    steps = ["--max-running", "300", "--step-tokens", "512", "--max-drafts", "0"]
    for options in ([*steps, "--max-waiting", "9", "--cache-gib", "0.125"], []):
        load = command._bundled(command._parser().parse_args(["--model", "tiny", *options]))
        with pytest.raises(StopHereError):
            load(None, lambda _: None)
    assert limits == [EngineLimits(300, 9, 512, 1 << 27, 0), EngineLimits()]


def test_weights_that_cannot_be_loaded_end_the_node_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"")
    command = [
        sys.executable,
        "-m",
        "model.serving.node",
        "--model",
        str(tmp_path / "broken"),
        "--port",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "fetch the model again" in done.stderr


def test_the_fetched_model_answers_through_the_node(
    start_node: Callable[..., Any], smollm2_home: Path
) -> None:
    node = start_node("--model", "smollm2-moe", "--home", str(smollm2_home))
    client = openai.OpenAI(base_url=f"{node.url}/v1", api_key="unused", timeout=60)
    ask: Any = [{"role": "user", "content": "What is the capital of France?"}]
    stream = client.chat.completions.create(model="smollm2-moe", messages=ask, temperature=0, stream=True)
    chunks = list(stream)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
