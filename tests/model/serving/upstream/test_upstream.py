"""Another server behind a node: what is asked of it, how its stream is counted, and its failures in our terms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from model.serving.api.errors import ApiError, LoadError
from model.serving.api.event_stream import BrokenStreamError, documents
from model.serving.api.requests import Prompt, read_messages, read_options
from model.serving.api.tokenizer import ByteTokenizer, byte_alphabet
from model.serving.node.backend import Ask, Piece
from model.serving.upstream.backend import Upstream, UpstreamServer
from model.serving.upstream.counting import LlamaCppCounter, TextCount, TokenizeCounter
from model.serving.upstream.probe import probe
from tests.model.serving.upstream.upstream_servers import UpstreamLike, counted, said

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "Hi"}]  # three tokens to vLLM's counter, three to llama.cpp's
Found = Callable[..., Awaitable[Upstream]]


@pytest_asyncio.fixture
async def found() -> AsyncIterator[Found]:
    """Starts a server, probes it, and closes both at the end."""
    async with AsyncExitStack() as stack:

        async def find(
            like: UpstreamLike, *, key: str | None = None, model: str | None = None, **how: Any
        ) -> Upstream:
            listening = await like.start()
            stack.push_async_callback(listening.close)
            server = UpstreamServer(str(listening.make_url("/v1")), key)
            stack.push_async_callback(server.close)
            given = {"tokenizer_folder": None, "max_context": None, **how}
            return await probe(server, model, **given)

        yield find


def ask(**fields: Any) -> Ask:
    body = {"model": "theirs", "messages": HI, **fields}
    return Ask(read_messages(body), read_options(body, is_chat=True), True, body)


async def answered(upstream: Upstream, **fields: Any) -> list[Piece]:
    running = await upstream.start(ask(**fields))
    try:
        return [piece async for piece in running.pieces()]
    finally:
        running.cancel()


def counts(pieces: list[Piece]) -> list[int]:
    return [piece.usage.to_openai()["completion_tokens"] for piece in pieces]


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A tokenizer of single bytes, and a template that adds one character to each message."""
    vocab = {character: i for i, character in enumerate(byte_alphabet())}
    shape = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": shape,
        "decoder": shape,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}|{{ m.content }}{% endfor %}")
    return tmp_path


async def test_a_server_like_vllm_counts_everything_itself(found: Found) -> None:
    like = UpstreamLike(
        chunks=[
            said("", usage=counted(3, 0)),
            said("He", usage=counted(3, 1, cached=2)),
            said("llo", finish="stop", usage=counted(3, 2, cached=2)),
            {"choices": [], "usage": counted(3, 3, cached=2)},
        ]
    )
    upstream = await found(like)
    assert (upstream.name, upstream.describe()["max_context"]) == ("theirs", 100)
    pieces = await answered(
        upstream, temperature=0.5, min_p=0.1, user="me", gainshare={"priority": 3}, seed=None
    )
    assert "".join(piece.text for piece in pieces) == "Hello"
    assert [piece.finish for piece in pieces] == [None, None, "stop"]
    assert counts(pieces) == [0, 1, 3], "the end carries the total, and only the end may grow to it"
    usage = pieces[-1].usage.to_openai()
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2} and usage["prompt_tokens"] == 3
    assert usage["gainshare"]["counted_by"] == {"prompt_tokens": "upstream", "completion_tokens": "upstream"}
    assert "device_ms" in usage["gainshare"]["not_counted"]
    (sent,) = like.asked
    assert sent == {
        "path": "/v1/chat/completions",
        "model": "theirs",
        "messages": HI,
        "temperature": 0.5,
        "min_p": 0.1,
        "max_tokens": 97,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert upstream.stats() == {"running": 0, "waiting": 0, "miscounted": 0}


async def test_prompts_of_token_ids_need_no_counting_server(found: Found) -> None:
    like = UpstreamLike(chunks=[{**said("", finish="stop"), "usage": counted(3, 1)}])
    upstream = await found(like)
    assert (await upstream.count((5, 6, 7))).count == 3
    body = {"model": "theirs", "prompt": [5, 6, 7], "max_tokens": 1}
    running = await upstream.start(Ask((5, 6, 7), read_options(body, is_chat=False), False, body))
    assert counts([piece async for piece in running.pieces()]) == [1]
    assert like.asked[0]["prompt"] == [5, 6, 7] and upstream.stats()["miscounted"] == 0


async def test_a_server_whose_model_has_no_chat_template_completes_texts(found: Found) -> None:
    like = UpstreamLike(chunks=[{**said("", finish="stop"), "usage": counted(2, 1)}], has_template=False)
    upstream = await found(like)
    assert (await upstream.count("Hi")).count == 2
    body = {"model": "theirs", "prompt": "Hi", "max_tokens": 1}
    running = await upstream.start(Ask("Hi", read_options(body, is_chat=False), False, body))
    assert counts([piece async for piece in running.pieces()]) == [1]
    with pytest.raises(ApiError, match="chat template") as caught:
        await answered(upstream)
    assert caught.value.status == 400 and len(like.asked) == 1


async def test_a_tokenizer_folder_still_counts_where_the_server_counts_no_chats(
    found: Found, tokenizer_folder: Path
) -> None:
    upstream = await found(UpstreamLike(has_template=False), tokenizer_folder=tokenizer_folder)
    assert (await upstream.count(read_messages({"messages": HI}))).count == 3


@pytest.mark.parametrize("told", [{}, {"count": None}, {"count": "3"}, {"count": -1}, {"count": True}])
async def test_a_server_that_stops_counting_is_told_as_a_failure_of_it(told: dict[str, Any]) -> None:
    async def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return told

    with pytest.raises(ApiError, match="no number of tokens") as caught:
        await TokenizeCounter(ask, "theirs").count("Hi")
    assert (caught.value.status, caught.value.code) == (502, "upstream_failed")
    with pytest.raises(ApiError, match="no number of tokens"):
        await LlamaCppCounter(ask).count("Hi")


async def test_a_plain_server_is_counted_here(found: Found, tokenizer_folder: Path) -> None:
    like = UpstreamLike("plain", chunks=[said("He"), said("llo", finish="length")])
    upstream = await found(like, tokenizer_folder=tokenizer_folder, max_context=50)
    pieces = await answered(upstream, max_tokens=9)
    assert counts(pieces) == [2, 5]
    usage = pieces[-1].usage.to_openai()
    assert usage["prompt_tokens"] == 3 and usage["total_tokens"] == 8
    assert set(usage["gainshare"]["counted_by"].values()) == {"recount"}
    assert "continuous_usage_stats" not in like.asked[0]["stream_options"]


async def test_a_total_at_the_end_replaces_the_recount_but_never_lowers_it(
    found: Found, tokenizer_folder: Path
) -> None:
    like = UpstreamLike(
        "plain", chunks=[said("abc"), said("", finish="stop"), {"choices": [], "usage": counted(3, 4)}]
    )
    upstream = await found(like, tokenizer_folder=tokenizer_folder, max_context=50)
    assert counts(await answered(upstream)) == [3, 4]
    assert upstream.stats()["miscounted"] == 0
    like.chunks = [said("abc"), said("", finish="stop"), {"choices": [], "usage": counted(9, 2)}]
    assert counts(await answered(upstream)) == [3, 3]
    assert upstream.stats()["miscounted"] == 1


async def test_llama_cpps_server_counts_prompts_in_two_steps(found: Found) -> None:
    like = UpstreamLike(
        "llama.cpp", chunks=[said("x", finish="stop"), {"choices": [], "usage": counted(3, 1)}]
    )
    upstream = await found(like)
    assert upstream.describe()["max_context"] == 77
    assert (await upstream.count(read_messages({"messages": HI}))).count == 3
    assert (await upstream.count("four")).count == 4 and (await upstream.count((1, 2))).count == 2
    assert counts(await answered(upstream)) == [1]


async def test_settings_go_to_each_server_under_the_names_it_knows(found: Found) -> None:
    usage = {"choices": [], "usage": counted(3, 1)}
    llama = UpstreamLike("llama.cpp", chunks=[said("x", finish="stop"), usage])
    vllm = UpstreamLike("vllm", chunks=[said("x", finish="stop"), usage])
    for like in (llama, vllm):
        await answered(await found(like), repetition_penalty=1.2, top_k=0, min_tokens=0)
    assert (llama.asked[0]["repeat_penalty"], llama.asked[0]["repeat_last_n"]) == (1.2, -1)
    assert vllm.asked[0]["repetition_penalty"] == 1.2
    assert "repetition_penalty" not in llama.asked[0] and "repeat_penalty" not in vllm.asked[0]
    assert llama.asked[0]["top_k"] == vllm.asked[0]["top_k"] == -1


async def test_ends_that_llama_cpps_server_does_not_know_are_refused(found: Found) -> None:
    ends = {"stop_token_ids": [7], "min_tokens": 2}
    vllm = UpstreamLike(chunks=[said("x", finish="stop"), {"choices": [], "usage": counted(3, 1)}])
    await answered(await found(vllm), **ends)
    assert {name: vllm.asked[0][name] for name in ends} == ends
    llama = UpstreamLike("llama.cpp")
    upstream = await found(llama)
    for name, value in ends.items():
        with pytest.raises(ApiError) as caught:
            await answered(upstream, **{name: value})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    assert llama.asked == []


async def test_several_answers_end_together_with_the_total(found: Found) -> None:
    like = UpstreamLike(
        chunks=[
            said("a", 0, usage=counted(3, 1)),
            said("b", 1, finish="stop", usage=counted(3, 1)),
            said("c", 0, finish="length", usage=counted(3, 2)),
            {"choices": [], "usage": counted(3, 3)},
        ]
    )
    pieces = await answered(await found(like), n=2, max_tokens=2)
    assert counts(pieces) == [1, 3, 3]
    assert [(piece.index, piece.text, piece.finish) for piece in pieces] == [
        (0, "a", None),
        (0, "c", "length"),
        (1, "b", "stop"),
    ]
    assert like.asked[0]["n"] == 2 and like.asked[0]["max_tokens"] == 2


async def test_an_answer_that_is_cut_off_costs_what_all_of_its_choices_had(found: Found) -> None:
    """vLLM counts each choice by itself until the end; a node of ours counts them together all along."""
    theirs = [said("x", i, usage=counted(3, t)) for t in (1, 2) for i in range(3)]
    ours = [
        said("x", i, usage={**counted(3, 3 * t + i + 1), "gainshare": {}}) for t in range(2) for i in range(3)
    ]
    for chunks in (theirs, ours):
        upstream = await found(UpstreamLike(chunks=chunks, ends="hangs"))
        running = await upstream.start(ask(n=3, max_tokens=2))
        pieces = running.pieces()
        assert counts([await anext(pieces) for _ in range(6)]) == [1, 2, 3, 4, 5, 6]
        running.cancel()
        assert upstream.stats()["miscounted"] == 0


async def test_choices_that_have_more_tokens_together_than_allowed_fail(found: Found) -> None:
    chunks = [said("x", 0, usage=counted(3, 2)), said("x", 1, usage=counted(3, 3))]
    with pytest.raises(ApiError, match="5 tokens where 4 were allowed"):
        await answered(await found(UpstreamLike(chunks=chunks)), n=2, max_tokens=2)


@pytest.mark.parametrize(
    ("chunks", "ends", "why"),
    [
        ([said("a", usage=counted(3, 1))], "cut", "DONE"),
        ([said("a", usage=counted(3, 1))], "done", "finish reason"),
        ([said("a", usage=counted(3, 99))], "done", "99 tokens where 2 were allowed"),
        ([said("a", index=1)], "done", "not asked for"),
        ([said("a", finish="stop"), said("b")], "done", "ended already"),
        ([said("a", finish="stop")], "done", "--tokenizer"),
        ([{"error": {"message": "out of blocks"}}], "done", "out of blocks"),
        ([b"{"], "done", "not JSON"),
        ([b"[1]"], "done", "not a JSON object"),
        ([{"choices": [5]}], "done", "AttributeError"),
    ],
)
async def test_streams_that_break_off_or_contradict_themselves_fail(
    found: Found, chunks: list[Any], ends: str, why: str
) -> None:
    upstream = await found(UpstreamLike(chunks=chunks, ends=ends))
    with pytest.raises(ApiError, match=why) as caught:
        await answered(upstream, max_tokens=2)
    assert (caught.value.status, caught.value.code) == (502, "upstream_failed")
    assert upstream.stats()["running"] == 0


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (
            400,
            {"error": {"message": "bad top_k", "param": "top_k", "code": "invalid"}},
            (400, "invalid", "top_k"),
        ),
        (422, {"message": "no", "code": 422}, (422, "invalid_value", None)),
        (404, {"error": {"message": "gone"}}, (404, "model_not_found", None)),
        (429, {"error": {"message": "full"}}, (429, "queue_full", None)),
        (503, {}, (503, "upstream_unavailable", None)),
        (500, {"error": "oops"}, (502, "upstream_failed", None)),
        (401, {"error": {"message": "key sk-secret is wrong"}}, (502, "upstream_failed", None)),
    ],
)
async def test_refusals_are_told_in_our_terms(
    found: Found, status: int, error: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    upstream = await found(UpstreamLike(refusal=(status, error)))
    with pytest.raises(ApiError) as caught:
        await answered(upstream)
    assert (caught.value.status, caught.value.code, caught.value.param) == expected
    assert "sk-secret" not in caught.value.message


async def test_a_client_that_leaves_is_left_by_the_server_too(found: Found) -> None:
    like = UpstreamLike(chunks=[said("a", usage=counted(3, 1))], ends="hangs")
    upstream = await found(like)
    running = await upstream.start(ask())
    await anext(running.pieces())
    assert upstream.stats()["running"] == 1
    running.cancel()
    running.cancel()
    async with asyncio.timeout(5):
        await like.is_left.wait()
    assert upstream.stats()["running"] == 0


@pytest.mark.parametrize("ends", ["holds", "hangs"])
async def test_a_deadline_before_the_answer_begins_is_told_as_such(found: Found, ends: str) -> None:
    """Of a server that holds its headers back, and of one that says nothing behind them."""
    like = UpstreamLike(chunks=[said("", usage=counted(3, 0))], ends=ends)
    upstream = await found(like)
    with pytest.raises(ApiError) as late:
        await answered(upstream, gainshare={"deadline_ms": 500})
    assert (late.value.status, late.value.code, late.value.kind) == (504, "deadline_exceeded", "server_error")
    async with asyncio.timeout(5):
        await like.is_left.wait()
    assert upstream.stats()["running"] == 0


async def test_an_answer_that_has_begun_ends_at_its_deadline_with_what_it_has(found: Found) -> None:
    chunks = [said("He", 0, usage=counted(3, 2)), said("ja", 1, finish="stop", usage=counted(3, 1))]
    upstream = await found(UpstreamLike(chunks=chunks, ends="hangs"))
    pieces = await answered(upstream, n=3, gainshare={"deadline_ms": 1000})
    assert [(piece.index, piece.text, piece.finish) for piece in pieces] == [
        (0, "He", None),
        (0, "", "deadline"),
        (1, "ja", "stop"),
        (2, "", "deadline"),
    ]
    assert counts(pieces) == [2, 3, 3, 3]
    assert upstream.stats() == {"running": 0, "waiting": 0, "miscounted": 0}


async def test_the_nodes_end_breaks_off_what_runs(found: Found) -> None:
    upstream = await found(UpstreamLike(chunks=[said("a", usage=counted(3, 1))], ends="hangs"))
    answering = asyncio.create_task(answered(upstream))
    async with asyncio.timeout(5):
        while not upstream.stats()["running"]:
            await asyncio.sleep(0.01)
        await upstream.stop()
        with pytest.raises(ApiError):
            await answering


async def test_what_does_not_fit_their_context_is_not_sent(found: Found) -> None:
    like = UpstreamLike()
    upstream = await found(like)
    with pytest.raises(ApiError) as caught:
        await answered(upstream, max_tokens=98)
    assert caught.value.code == "context_length_exceeded" and like.asked == []


@pytest.mark.parametrize(
    ("like", "how", "code"),
    [
        (UpstreamLike(), {"model": "other"}, "model_not_found"),
        (UpstreamLike("plain"), {"max_context": 9}, "cannot_count"),
        (UpstreamLike(key="right"), {"key": "wrong"}, "upstream_failed"),
        (UpstreamLike("plain"), {"tokenizer_folder": Path("/nowhere")}, "tokenizer_not_usable"),
    ],
)
async def test_servers_that_cannot_be_metered_are_refused_at_the_start(
    found: Found, like: UpstreamLike, how: dict[str, Any], code: str
) -> None:
    with pytest.raises(LoadError) as caught:
        await found(like, **how)
    assert caught.value.code == code


async def test_an_unknown_context_has_to_be_given(found: Found, tokenizer_folder: Path) -> None:
    with pytest.raises(LoadError, match="--max-context"):
        await found(UpstreamLike("plain"), tokenizer_folder=tokenizer_folder)


class Characters:
    """Counts the characters of texts."""

    source = "recount"

    async def count(self, prompt: Prompt) -> int:
        return len(prompt)


async def test_readiness_follows_the_server(found: Found) -> None:
    upstream = await found(UpstreamLike(key="k"), key="k")
    await upstream.check_ready()
    gone = Upstream(
        UpstreamServer("http://127.0.0.1:9", None),
        "theirs",
        max_context=9,
        counter=Characters(),
        tokenizer=None,
        tells_usage=False,
    )
    with pytest.raises(ApiError) as caught:
        await gone.check_ready()
    assert (caught.value.status, caught.value.code) == (503, "upstream_unreachable")
    await gone.stop()


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \n", max_size=300), max_size=8))
def test_a_growing_text_is_counted_as_the_whole(pieces: list[str]) -> None:
    counting = TextCount(ByteTokenizer())
    for piece in pieces:
        counting.push(piece)
    assert counting.n_tokens == len("".join(pieces))


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_documents_survive_any_cut_of_the_stream(cuts: list[int]) -> None:
    raw = b': hello\r\ndata: {"a": 1}\r\n\r\ndata: {"a": 2}\n\ndata: [DONE]\n\n'
    edges = [0, *sorted(cut % len(raw) for cut in cuts), len(raw)]

    async def body() -> AsyncIterator[bytes]:
        for start, end in pairwise(edges):
            yield raw[start:end]

    async def read() -> list[Any]:
        return [document async for document in documents(body())]

    assert asyncio.run(read()) == [{"a": 1}, {"a": 2}]


async def test_a_stream_without_an_end_is_broken() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'data: {"a": 1}\n\n'

    with pytest.raises(BrokenStreamError):
        [document async for document in documents(body())]
