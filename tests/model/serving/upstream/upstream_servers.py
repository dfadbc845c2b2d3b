"""Servers as an upstream may be: one like vLLM, one like llama.cpp's, one that only speaks OpenAI's API.

They generate nothing: a test says which chunks they stream. Each remembers what it was asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Chunk = dict[str, Any] | bytes


def said(text: str, index: int = 0, finish: str | None = None, **beside: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice], **beside}


def counted(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """Usage: of one answer in a chunk that has it, as vLLM has it; of all together in one without choices."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


@dataclass
class UpstreamLike:
    """`flavour`: "vllm", "llama.cpp" or "plain". Prompts have a token per character, chats one more per message."""

    flavour: str = "vllm"
    chunks: Sequence[Chunk] = ()
    ends: str = "done"  # or "cut": without [DONE]; "hangs"; or "holds": not even headers come
    refusal: tuple[int, dict[str, Any]] | None = None
    key: str | None = None
    has_template: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    is_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> TestServer:
        app = web.Application()
        app.router.add_get("/v1/models", self._guarded(self._models))
        app.router.add_post("/v1/chat/completions", self._guarded(self._stream))
        app.router.add_post("/v1/completions", self._guarded(self._stream))
        if self.flavour != "plain":
            app.router.add_post("/tokenize", self._guarded(self._tokenize))
        if self.flavour == "llama.cpp":
            app.router.add_post("/apply-template", self._guarded(self._template))
            app.router.add_get("/props", self._guarded(self._props))
        server = TestServer(app)
        await server.start_server()
        return server

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return web.json_response({"error": {"message": "bad key"}}, status=401)
            return await handler(request)

        return guarded

    async def _models(self, _: web.Request) -> web.Response:
        entry: dict[str, Any] = {"id": "theirs", "object": "model"}
        if self.flavour == "vllm":
            entry["max_model_len"] = 100
        return web.json_response({"object": "list", "data": [entry]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.flavour == "llama.cpp":
            if "content" not in body:
                return web.json_response({"tokens": []})
            return web.json_response({"tokens": list(range(len(body["content"])))})
        if "messages" in body and not self.has_template:  # as vLLM has it
            error = {"message": "default chat template is no longer allowed", "param": None, "code": 400}
            return web.json_response({"error": error}, status=400)
        if "messages" in body:
            return web.json_response({"count": sum(len(m["content"]) + 1 for m in body["messages"])})
        if not isinstance(body["prompt"], str):  # as vLLM has it
            error = {"message": "Input should be a valid string", "param": "body.prompt", "code": 400}
            return web.json_response({"error": error}, status=400)
        return web.json_response({"count": len(body["prompt"]), "max_model_len": 100})

    async def _template(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"prompt": "".join(f"|{m['content']}" for m in body["messages"])})

    async def _props(self, _: web.Request) -> web.Response:
        return web.json_response({"default_generation_settings": {"n_ctx": 77}})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({"path": request.path, **await request.json()})
        if self.refusal is not None:
            return web.json_response(self.refusal[1], status=self.refusal[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            if self.ends == "holds":
                await asyncio.Event().wait()
            await response.prepare(request)
            for chunk in self.chunks:
                data = chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
                await response.write(b"data: " + data + b"\r\n\r\n")
            if self.ends == "hangs":
                await asyncio.Event().wait()
            if self.ends == "done":
                await response.write(b"data: [DONE]\n\n")
        finally:
            self.is_left.set()
        return response
