"""The shapes of answers: several at once, log-probabilities, chunks. No model, no network."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from model.sampling import Chosen
from model.serving.api.answers import Answer, server_sent
from model.serving.api.logprobs import LogprobWriter, joined
from model.serving.node.backend import Piece

BYTES = {1: b"He", 2: b"llo", 3: b"\xe2\x82", 4: b"\xac", 5: b""}


@dataclass(frozen=True)
class Tokens:
    """Counters that only count tokens."""

    n: int

    def to_openai(self) -> dict[str, Any]:
        return {"completion_tokens": self.n}


def writer(*, is_chat: bool) -> LogprobWriter:
    return LogprobWriter(BYTES.__getitem__, is_chat=is_chat)


def test_a_whole_answer_holds_each_choice_once_in_order() -> None:
    pieces = [
        Piece("b1", Tokens(1), 1),
        Piece("a1", Tokens(2), 0),
        Piece("b2", Tokens(3), 1, "stop"),
        Piece("a2", Tokens(4), 0, "length"),
    ]
    whole = Answer("m", is_chat=True).whole(pieces)
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "a1a2", "length"),
        (1, "b1b2", "stop"),
    ]
    assert whole["usage"] == {"completion_tokens": 4} and whole["object"] == "chat.completion"
    text = Answer("m", is_chat=False).whole(pieces)
    assert [choice["text"] for choice in text["choices"]] == ["a1a2", "b1b2"]
    assert text["object"] == "text_completion" and all(c["logprobs"] is None for c in text["choices"])


def test_each_chat_answer_is_opened_once_and_empty_pieces_say_nothing() -> None:
    answer = Answer("m", is_chat=True)

    def chunks(piece: Piece, *, with_usage: bool = False) -> list[dict[str, Any]]:
        return list(answer.chunks(piece, with_usage=with_usage))

    opening, first = chunks(Piece("a", Tokens(1)))
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["delta"] == {"content": "a"} and "usage" not in first
    assert chunks(Piece("", Tokens(2))) == []
    (counted,) = chunks(Piece("", Tokens(2)), with_usage=True)
    assert counted["usage"] == {"completion_tokens": 2}
    assert len(chunks(Piece("b", Tokens(3), 1))) == 2, "the other answer is opened too"
    (end,) = chunks(Piece("", Tokens(3), finish="stop"))
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")


def test_completions_are_not_opened() -> None:
    chunks = list(Answer("m", is_chat=False).chunks(Piece("a", Tokens(1), 2), with_usage=False))
    assert [(c["choices"][0]["index"], c["choices"][0]["text"]) for c in chunks] == [(2, "a")]


def test_chat_log_probabilities_name_bytes_and_alternatives() -> None:
    entry = writer(is_chat=True).write(Chosen(1, -0.25, ((1, -0.25), (2, -math.inf))))
    assert entry == {
        "content": [
            {
                "token": "He",
                "logprob": -0.25,
                "bytes": [72, 101],
                "top_logprobs": [
                    {"token": "He", "logprob": -0.25, "bytes": [72, 101]},
                    {"token": "llo", "logprob": -9999.0, "bytes": [108, 108, 111]},
                ],
            }
        ],
        "refusal": None,
    }
    json.dumps(entry, allow_nan=False)
    assert writer(is_chat=True).write(Chosen(1)) is None


def test_completion_log_probabilities_are_parallel_lists_with_offsets() -> None:
    written = writer(is_chat=False)
    parts = [written.write(Chosen(token, -float(token), ((2, -0.5),))) for token in (1, 3, 4, 5)]
    whole = joined(part for part in parts if part is not None)
    assert whole is not None
    assert whole["tokens"] == ["He", r"bytes:\xe2\x82", r"bytes:\xac", "token_id:5"]
    assert whole["token_logprobs"] == [-1, -3, -4, -5]
    assert whole["text_offset"] == [0, 2, 2, 3]  # the euro sign is whole with its second token
    assert whole["top_logprobs"][0] == {"He": -1, "llo": -0.5}


def test_joining_does_not_change_its_parts() -> None:
    parts = [{"content": [1], "refusal": None}, {"content": [2], "refusal": None}]
    assert joined(parts) == {"content": [1, 2], "refusal": None}
    assert parts[0] == {"content": [1], "refusal": None} and joined([]) is None


def test_events_stay_on_one_line_whatever_the_text() -> None:
    event = server_sent({"text": "a\u2028b\x85\n"})
    assert event.isascii() and event.count("\n") == 2 and event.endswith("\n\n")
