"""Tokens per second from the times at which tokens came. Pure.

An answer is {"requests": [{"submitted_ns", "times_ns", "tokens"}]}, as `drivers/record.py` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]
NS = 1e9


def prefill_rate(answer: Answer, prompt_tokens: int) -> float:
    """Prompt tokens a second up to the first token of the first request."""
    return prompt_tokens / first_token_s(answer)


def first_token_s(answer: Answer) -> float:
    """Seconds from the first request's arrival to its first token."""
    request = answer["requests"][0]
    return float(request["times_ns"][0] - request["submitted_ns"]) / NS


def decode_rate(answer: Answer) -> float:
    """Tokens a second while all requests are decoding: from the last one's first token to the first one's last.

    With one request it is its rate behind its first token. Raises ValueError where they were never all at it.
    """
    times: Sequence[Sequence[int]] = [request["times_ns"] for request in answer["requests"]]
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    if end <= begin:
        raise ValueError("the requests were never all decoding at once: their answers are too short")
    return sum(begin < moment <= end for each in times for moment in each) / ((end - begin) / NS)


def whole_rate(answer: Answer) -> float:
    """All generated tokens over the time from the first arrival to the last token: prompts and waiting included."""
    requests = answer["requests"]
    begin = min(request["submitted_ns"] for request in requests)
    end = max(request["times_ns"][-1] for request in requests)
    count = sum(len(request["times_ns"]) for request in requests)
    return count / (float(end - begin) / NS)


def mean_context(answer: Answer, prompts: Sequence[int]) -> float:
    """Tokens that a decode step looks back at, on average over a request's answer; `prompts` are prompt lengths."""
    lengths = [len(request["tokens"]) for request in answer["requests"]]
    return sum(prompt + n / 2 for prompt, n in zip(prompts, lengths, strict=True)) / len(lengths)
