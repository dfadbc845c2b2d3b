"""Nodes that misbehave on purpose, HTTP servers in the test's own process, and a customer of the real gateway."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer

from gainshare.gateway.asgi import with_gateway
from gainshare.gateway.database import in_database
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.nodes.sharing import pool_and_sharing
from gainshare.ledger import services as ledger

MODEL = "tiny"
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
PROMPT = 3  # tokens, as the nodes count
GRANTED = 100_000
OUT_S = 12.0  # within which a silent node is out, on a busy machine


def chunk(tokens: int, finish: str | None = None, *, prompt: int = PROMPT, role: str | None = None) -> bytes:
    delta = {"role": role} if role else {"content": "x"}
    document = {
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens},
    }
    return f"data: {json.dumps(document)}\n\n".encode()


ROLE = chunk(0, role="assistant")
WHOLE = (ROLE, chunk(1), chunk(2, "stop"), b"data: [DONE]\n\n")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn:
    """A node whose answers are given by `answer`; `frozen` makes it accept connections and say nothing."""

    def __init__(self) -> None:
        self.answer: Answer = self.whole
        self.frozen = False
        self.n_asked = self.n_running = self.most_running = 0
        self.go = asyncio.Event()  # lets an answer that hangs continue
        self.left = asyncio.Event()  # an answer that hung has ended
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self.n_prompt = PROMPT

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.server = TestServer(app)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")

    async def _serve(self, sent: web.Request) -> web.StreamResponse:
        if self.frozen:
            await self._silence()
        if sent.path == "/health":
            return web.json_response({"status": "ok"})
        if sent.path == "/v1/models":
            return web.json_response({"data": [{"id": MODEL}]})
        if sent.path == "/tokenize":
            return web.json_response({"count": self.n_prompt, "max_context": 2048})
        self.n_asked += 1
        self.bodies.append(await sent.json())
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            return await self.answer(sent)
        finally:
            self.n_running -= 1

    async def _silence(self) -> None:
        while self.frozen:
            await asyncio.sleep(0.05)

    async def stream(self, sent: web.Request, *pieces: bytes, pause_s: float = 0.0) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(sent)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause_s)
        return response

    async def whole(self, sent: web.Request) -> web.StreamResponse:
        if self.n_prompt != PROMPT:
            n = self.n_prompt
            return await self.stream(sent, chunk(2, "stop", prompt=n), b"data: [DONE]\n\n")
        return await self.stream(sent, *WHOLE)

    async def slow(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, *WHOLE, pause_s=0.2)

    async def breaks_before(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, ROLE)

    async def breaks_after(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, ROLE, chunk(1))

    async def another_count(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, chunk(1, "stop", prompt=PROMPT + 1), b"data: [DONE]\n\n")

    async def hangs(self, sent: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(sent)
            await response.write(ROLE)
            await self.go.wait()
            for piece in WHOLE[1:]:
                await response.write(piece)
        finally:
            self.left.set()
        return response

    def refuses(self, status: int) -> Answer:
        async def refuse(sent: web.Request) -> web.StreamResponse:
            return web.json_response({"error": {"message": "no", "code": "x"}}, status=status)

        return refuse


class Gateway:
    """The gateway's application with a customer of its own."""

    def __init__(self, key: str, user: Any) -> None:
        self.key, self.user = key, user

    async def ask(self, **body: Any) -> httpx.Response:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **body}
        async with self._client() as client:
            return await client.post("/v1/chat/completions", json=asked)

    async def models(self) -> list[dict[str, Any]]:
        async with self._client() as client:
            found: list[dict[str, Any]] = (await client.get("/v1/models")).json()["data"]
        return found

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(with_gateway(None)),
            base_url="http://testserver",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
        )

    async def record(self, **fields: Any) -> UsageRecord:
        """The newest record, once it is settled."""
        async with asyncio.timeout(15):
            while True:
                found: UsageRecord | None = await in_database(
                    lambda: UsageRecord.objects.filter(settled_at__isnull=False, **fields).first()
                )
                if found is not None:
                    return found
                await asyncio.sleep(0.02)


async def first_choice(nodes: tuple[StandIn, StandIn]) -> StandIn:
    """Make sure that the first node is asked first: the second one has no free slot at the moment of the choice."""
    pool, sharing = pool_and_sharing()
    await sharing.fresh()
    await pool.models()
    sharing.view.candidates = first_is_preferred(nodes[0].url, sharing.view.candidates)  # type: ignore[method-assign]
    return nodes[0]


def first_is_preferred(url: str, choose: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(*arguments: Any, **more: Any) -> Any:
        return tuple(sorted(choose(*arguments, **more), key=lambda candidate: candidate.node != url))

    return chosen


def texts(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def balance_of(user: Any) -> int:
    return ledger.balance(user).available
