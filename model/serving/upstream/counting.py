"""Count the tokens of prompts and answers that another server generates.

Prompts are counted by the server's own tokenizer where it offers that (vLLM's and SGLang's /tokenize, llama.cpp's
/tokenize and /apply-template), else by a tokenizer folder on this machine. Texts are always counted here, and only
where such a folder was given.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from model.hf.convert import special_tokens
from model.serving.api.chat import TEMPLATE_FILE, ChatError, ChatTemplate, Message
from model.serving.api.errors import LoadError, bad_value, upstream_failed
from model.serving.api.fields import is_whole
from model.serving.api.requests import Prompt
from model.serving.api.tokenizer import TOKENIZER_FILE, BPETokenizer, Tokenizer

SETTLE_CHARACTERS = 512  # of a growing text: the part before their last white space is not counted again
MOST_UNSETTLED = 4096  # without white space: then half of them are settled at any place


class Ask(Protocol):
    """Interface to post JSON to a path of the server; returns the response. Raises ApiError."""

    async def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]: ...


class PromptCounter(Protocol):
    source: str  # who counts, as shown in the usage

    async def count(self, prompt: Prompt) -> int:
        """Count a prompt's tokens. Raises ApiError."""


class TokenizeCounter:
    """Counts with a server that tokenizes texts and chats: vLLM, SGLang, or another node of ours."""

    source = "upstream"

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask, self._model = ask, model

    async def count(self, prompt: Prompt) -> int:
        fields = as_fields(prompt)
        if isinstance(fields.get("prompt"), list):
            return len(prompt)
        answer = await self._ask("/tokenize", {"model": self._model, **fields})
        return _whole(answer.get("count"))


class LlamaCppCounter:
    """Counts with llama.cpp's server, which renders a chat as text first."""

    source = "upstream"

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def count(self, prompt: Prompt) -> int:
        fields = as_fields(prompt)
        if "messages" in fields:
            text = (await self._ask("/apply-template", fields)).get("prompt")
        elif isinstance(fields["prompt"], list):
            return len(fields["prompt"])
        else:
            text = fields["prompt"]
        tokens = (await self._ask("/tokenize", {"content": text, "add_special": True})).get("tokens")
        return _whole(len(tokens) if isinstance(tokens, list) else None)


class LocalCounter:
    """Counts with a tokenizer and chat template of this machine, which must be those of the server's model."""

    source = "recount"

    def __init__(self, folder: Path) -> None:
        try:
            self.tokenizer: Tokenizer = BPETokenizer(folder / TOKENIZER_FILE, ())
            template = folder / TEMPLATE_FILE
            self._chat: ChatTemplate | None = None
            if template.is_file():
                self._chat = ChatTemplate(template.read_text(encoding="utf-8"), special_tokens(folder))
        except Exception as error:  # tokenizers raises bare Exception
            message = f"{folder} has no usable {TOKENIZER_FILE} or {TEMPLATE_FILE}: {error}"
            raise LoadError(422, "tokenizer_not_usable", message) from error

    async def count(self, prompt: Prompt) -> int:
        return await asyncio.to_thread(self._count, prompt)  # long texts take seconds

    def _count(self, prompt: Prompt) -> int:
        if isinstance(prompt, str):
            return len(self.tokenizer.encode_prompt(prompt))
        messages = tuple(item for item in prompt if isinstance(item, Message))
        if not messages:
            return len(prompt)
        if self._chat is None:
            raise bad_value(
                "messages", f"chats cannot be counted here: the tokenizer folder has no {TEMPLATE_FILE}"
            )
        try:
            return len(self.tokenizer.encode(self._chat.render(messages)))
        except ChatError as error:
            raise bad_value("messages", str(error)) from error


class TextCount:
    """Tokens of a text that grows: the end is counted again with each piece, the rest once.

    The settled part ends at white space, where byte-level tokenizers cut in any case, so that cutting there changes
    nothing in ordinary text. A longer run without white space is cut too, which may count a token more for each 2,048
    characters; otherwise the time would grow with the square of the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail, self._n_settled = "", 0
        self.n_tokens = 0

    def push(self, text: str) -> None:
        self._tail += text
        if len(self._tail) > SETTLE_CHARACTERS and (cut := self._tail.rfind(" ", 1)) > 0:
            self._settle(cut)
        while len(self._tail) > MOST_UNSETTLED:
            self._settle(MOST_UNSETTLED // 2)
        n_tokens = self._n_settled + len(self._tokenizer.encode(self._tail))
        self.n_tokens = max(self.n_tokens, n_tokens)  # a later piece may merge with an earlier one

    def _settle(self, n_characters: int) -> None:
        self._n_settled += len(self._tokenizer.encode(self._tail[:n_characters]))
        self._tail = self._tail[n_characters:]


def _whole(count: Any) -> int:
    """Check a number of tokens. Raises ApiError (502)."""
    if not is_whole(count) or count < 0:
        raise upstream_failed("its answer to counting a prompt has no number of tokens")
    return int(count)


def as_fields(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the fields of a request."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    messages = [{"role": item.role, "content": item.content} for item in prompt if isinstance(item, Message)]
    return {"messages": messages} if messages else {"prompt": list(prompt)}
