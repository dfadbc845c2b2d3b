"""Azure's traces of language models: CSV with the time and the tokens of each request, without prefixes.

Format: github.com/Azure/AzurePublicDataset, 2023 (seven digits of a second) and 2024 (with an offset from UTC).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from gainshare.capacity.traces.lines import Line, TraceFile
from gainshare.capacity.traces.recorded import MAX_TOKENS, RecordedTrace
from gainshare.capacity.traces.requests import TraceRequest

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
SHAPE = f"The columns are {HEADER}, for example 2023-11-16 18:15:46.6805900,374,44"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d{1,9})?(\+00:00|Z)?", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)


def is_azure(file: TraceFile) -> bool:
    return file.lines[0].text == HEADER


def read_azure(file: TraceFile) -> RecordedTrace:
    """Raises TraceError at the first line that is no request, or is earlier than the one before."""
    if not is_azure(file):
        raise file.error(file.lines[0], "the header is not that of an Azure trace", SHAPE)
    requests: list[TraceRequest] = []
    start = before = 0.0
    for line in file.lines[1:]:
        at, prompt, output = _row(file, line)
        if not requests:
            start = at
        elif at < before:
            raise file.error(
                line, "this request is earlier than the one before", "Sort the file by TIMESTAMP"
            )
        before = at
        requests.append(TraceRequest(at - start, prompt, output))
    if not requests:
        raise file.error(file.lines[0], "there is a header and no request", "Give at least one request")
    return RecordedTrace(file.path.name, file.digest, 0, tuple(requests))


def _row(file: TraceFile, line: Line) -> tuple[float, int, int]:
    fields = line.text.split(",")
    if len(fields) != 3:
        if line is file.lines[-1] and not line.has_end:
            raise file.error(line, "the last line is cut off", "Copy the file again, or remove that line")
        raise file.error(line, f"3 fields are needed, {len(fields)} are given", SHAPE)
    time, prompt, output = fields
    return (
        _seconds(file, line, time),
        _tokens(file, line, prompt, "ContextTokens"),
        _tokens(file, line, output, "GeneratedTokens"),
    )


def _seconds(file: TraceFile, line: Line, text: str) -> float:
    found = _TIME.fullmatch(text)
    if found is None:
        raise file.error(line, "TIMESTAMP is no time in UTC", SHAPE)
    whole, fraction, _ = found.groups()
    try:
        at = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    except ValueError:
        raise file.error(line, "TIMESTAMP is no time in UTC", SHAPE) from None
    return at.timestamp() + float(fraction or 0)


def _tokens(file: TraceFile, line: Line, text: str, name: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) > MAX_TOKENS:
        raise file.error(line, f"{name} is not a whole number from 0 to {MAX_TOKENS}", SHAPE)
    return int(text)
