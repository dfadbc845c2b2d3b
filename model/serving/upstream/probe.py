"""Probe another server: its models, its context length, and how its tokens can be counted.

Refuses a server whose prompts cannot be counted, since their usage could not be metered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.serving.api.chat import Message
from model.serving.api.errors import ApiError, LoadError
from model.serving.api.requests import Prompt
from model.serving.node.host import Load, OnDeath
from model.serving.upstream.backend import Upstream, UpstreamServer
from model.serving.upstream.counting import LlamaCppCounter, LocalCounter, PromptCounter, TokenizeCounter

log = logging.getLogger(__name__)

CONTEXT_FIELDS = ("max_model_len", "max_context", "context_length", "context_window")
TEXT = "Hello"
HELLO = (Message("user", TEXT),)


def upstream_loader(
    url: str, key: str | None, *, model: str | None, tokenizer_folder: Path | None, max_context: int | None
) -> Load:
    """Make a loader that finds a model of the server at `url`; without a name it is `model`, or the only one."""

    def find(name: str | None, _: OnDeath) -> Upstream:
        server = UpstreamServer(url, key)

        async def asked() -> Upstream:
            try:
                return await probe(
                    server, name or model, tokenizer_folder=tokenizer_folder, max_context=max_context
                )
            finally:
                await server.close()  # its connections belong to this loop, which ends now

        return asyncio.run(asked())

    return find


async def probe(
    server: UpstreamServer, model: str | None, *, tokenizer_folder: Path | None, max_context: int | None
) -> Upstream:
    """The backend of the server's `model`, or of its only one. Raises LoadError that says what to do."""
    try:
        entry = await _entry(server, model)
        name = str(entry["id"])
        local = LocalCounter(tokenizer_folder) if tokenizer_folder is not None else None
        counter, tells_usage = await _counter(server, name, local)
        context = max_context or await _context(server, entry)
    except ApiError as error:
        raise LoadError(502, error.code, f"{server.root}: {error}") from error
    log.info("%s at %s: context %d, prompts counted by %s", name, server.root, context, counter.source)
    tokenizer = local.tokenizer if local is not None else None
    return Upstream(
        server,
        name,
        max_context=context,
        counter=counter,
        tokenizer=tokenizer,
        tells_usage=tells_usage,
        is_llama_cpp=isinstance(counter, LlamaCppCounter),
    )


async def _entry(server: UpstreamServer, model: str | None) -> Mapping[str, Any]:
    listed = (await server.get("/v1/models")).get("data")
    entries = {str(entry["id"]): entry for entry in listed or () if isinstance(entry, dict) and "id" in entry}
    if model is None and len(entries) == 1:
        return next(iter(entries.values()))
    if model in entries:
        return entries[model]
    wanted = (
        f"no model {model!r}" if model is not None else "more than one model, or none: choose with --model"
    )
    raise LoadError(
        404, "model_not_found", f"{server.root} serves {wanted}; it lists {', '.join(entries) or 'none'}"
    )


async def _counter(
    server: UpstreamServer, model: str, local: LocalCounter | None
) -> tuple[PromptCounter, bool]:
    """The prompt counter, the server itself if it can, and whether each chunk has counters, as with vLLM's /tokenize."""
    asked = TokenizeCounter(server.post, model)
    if await _counts(asked, TEXT, HELLO):
        return asked, True
    llama = LlamaCppCounter(server.post)
    if await _counts(llama, TEXT, HELLO):
        return llama, False
    if local is not None:
        return local, False
    if await _counts(asked, TEXT):  # for a model without a chat template, whose server refuses chats itself
        return asked, True
    raise LoadError(
        422,
        "cannot_count",
        f"{server.root} cannot count prompts: give the model's tokenizer folder with --tokenizer",
    )


async def _counts(counter: PromptCounter, *prompts: Prompt) -> bool:
    """Whether the counter counts all of these prompts."""
    try:
        return all([await counter.count(prompt) > 0 for prompt in prompts])
    except ApiError:
        return False


async def _context(server: UpstreamServer, entry: Mapping[str, Any]) -> int:
    for name in CONTEXT_FIELDS:
        if isinstance(entry.get(name), int):
            return int(entry[name])
    try:
        return int((await server.get("/props"))["default_generation_settings"]["n_ctx"])  # llama.cpp
    except (ApiError, KeyError, TypeError, ValueError):
        message = f"{server.root} does not report its context length: give it with --max-context"
        raise LoadError(422, "unknown_context", message) from None
