"""Log-probabilities of chosen tokens in OpenAI's two shapes. Does not import torch.

Chat answers have one entry per token, completions parallel lists. JSON has no infinities: a token that could not be
chosen is shown as -9999, as OpenAI does.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

IMPOSSIBLE = -9999.0


class ChosenToken(Protocol):
    """A token, its log-probability (None where it was not asked for) and the likeliest ones with theirs."""

    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top(self) -> Sequence[tuple[int, float]]: ...


class LogprobWriter:
    """Writes one answer's log-probabilities, token by token, with offsets into its text."""

    def __init__(self, token_bytes: Callable[[int], bytes], *, is_chat: bool) -> None:
        self._token_bytes, self._is_chat = token_bytes, is_chat
        self._offset = 0  # in the answer's text
        self._decoder = codecs.getincrementaldecoder("utf-8")(
            errors="replace"
        )  # tokens may hold parts of a character

    def write(self, chosen: ChosenToken) -> dict[str, Any] | None:
        """The entry of one token; None where log-probabilities were not asked for."""
        if chosen.logprob is None:
            return None
        return self._for_chat(chosen) if self._is_chat else self._for_completion(chosen)

    def _for_chat(self, chosen: ChosenToken) -> dict[str, Any]:
        assert chosen.logprob is not None
        top = [self._entry(token, logprob) for token, logprob in chosen.top]
        entry = {**self._entry(chosen.token, chosen.logprob), "top_logprobs": top}
        return {"content": [entry], "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        given = self._token_bytes(token)
        text = given.decode("utf-8", errors="replace")
        return {"token": text or _name(token), "logprob": shown(logprob), "bytes": list(given)}

    def _for_completion(self, chosen: ChosenToken) -> dict[str, Any]:
        assert chosen.logprob is not None
        text = self._distinct(chosen.token)
        top = {self._distinct(token): shown(logprob) for token, logprob in chosen.top}
        offset = self._offset
        self._offset += len(self._decoder.decode(self._token_bytes(chosen.token)))
        return {
            "tokens": [text],
            "token_logprobs": [shown(chosen.logprob)],
            "top_logprobs": [{text: shown(chosen.logprob), **top}],
            "text_offset": [offset],
        }

    def _distinct(self, token: int) -> str:
        """A unique text of a token: bytes of unfinished characters are escaped as OpenAI does."""
        given = self._token_bytes(token)
        try:
            return given.decode("utf-8") or _name(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in given)


def shown(logprob: float) -> float:
    return max(float(logprob), IMPOSSIBLE)


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Join the log-probabilities of an answer's pieces; None if there are none."""
    whole: dict[str, Any] | None = None
    for part in parts:
        if whole is None:
            whole = {name: list(value) if isinstance(value, list) else value for name, value in part.items()}
            continue
        for name, value in part.items():
            if isinstance(value, list) and isinstance(whole.get(name), list):
                whole[name] += value
    return whole


def _name(token: int) -> str:
    """Name of a special token, which has no text."""
    return f"token_id:{token}"
