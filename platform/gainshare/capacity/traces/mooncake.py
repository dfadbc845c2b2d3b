"""Mooncake's traces: one JSON object a line, with the hashes of the prompt's blocks of 512 tokens.

Format: github.com/kvcache-ai/Mooncake, FAST25 release: ``timestamp`` in ms, ``input_length``, ``output_length``, and
``hash_ids``, of which each stands for a block together with all blocks before it. The last id stands for the prompt's
rest, which is mostly shorter than a block; only whole blocks are kept, because only whole blocks are ever cached.
"""

from __future__ import annotations

import json
from typing import Any

from gainshare.capacity.traces.lines import Line, TraceFile
from gainshare.capacity.traces.recorded import MAX_TOKENS, RecordedTrace
from gainshare.capacity.traces.requests import TraceRequest

BLOCK_TOKENS = 512
MAX_TIMESTAMP_MS = 10 * 366 * 86_400_000
SHAPE = 'Each line is {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [n, ...]}'


def is_mooncake(file: TraceFile) -> bool:
    return file.lines[0].text.startswith("{")


def read_mooncake(file: TraceFile) -> RecordedTrace:
    """Raises TraceError at the first line that is no request, or is earlier than the one before."""
    requests: list[TraceRequest] = []
    for line in file.lines:
        request = _request(file, line)
        if requests and request.at_s < requests[-1].at_s:
            raise file.error(
                line, "this request is earlier than the one before", "Sort the file by timestamp"
            )
        requests.append(request)
    return RecordedTrace(file.path.name, file.digest, BLOCK_TOKENS, tuple(requests))


def _request(file: TraceFile, line: Line) -> TraceRequest:
    fields = _object(file, line)
    timestamp = _number(file, line, fields, "timestamp", MAX_TIMESTAMP_MS)
    prompt = _whole(file, line, fields.get("input_length"), "input_length")
    output = _whole(file, line, fields.get("output_length"), "output_length")
    return TraceRequest(timestamp / 1000, prompt, output, _blocks(file, line, fields, prompt))


def _object(file: TraceFile, line: Line) -> dict[str, Any]:
    try:
        fields = json.loads(line.text)
    except (ValueError, RecursionError):
        if line is file.lines[-1] and not line.has_end:
            raise file.error(
                line, "the last line is cut off", "Copy the file again, or remove that line"
            ) from None
        raise file.error(line, "this is no JSON", SHAPE) from None
    if not isinstance(fields, dict):
        raise file.error(line, "this is no JSON object", SHAPE)
    return fields


def _number(file: TraceFile, line: Line, fields: dict[str, Any], name: str, most: int) -> float:
    value = fields.get(name)
    if (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most
    ):  # NaN fails too
        raise file.error(line, f"{name} is not a number from 0 to {most}", SHAPE)
    return value


def _whole(file: TraceFile, line: Line, value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise file.error(line, f"{name} is not a whole number from 0 to {MAX_TOKENS}", SHAPE)
    return value


def _blocks(file: TraceFile, line: Line, fields: dict[str, Any], prompt: int) -> tuple[int, ...]:
    ids = fields.get("hash_ids")
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise file.error(line, "hash_ids is not a list of whole numbers", SHAPE)
    needed = -(-prompt // BLOCK_TOKENS)
    if len(ids) != needed:
        raise file.error(
            line,
            f"{prompt} tokens are {needed} blocks of {BLOCK_TOKENS}, and {len(ids)} hash_ids are given",
            "Give one id for each block, the last one for what is left",
        )
    return tuple(ids[: prompt // BLOCK_TOKENS])
