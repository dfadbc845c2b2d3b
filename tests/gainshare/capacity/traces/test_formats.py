"""Reading trace files: what is read of good ones, and what is said of bad ones."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from gainshare.capacity.traces import lines
from gainshare.capacity.traces.formats import TraceError, read_rates, read_trace
from gainshare.capacity.traces.requests import TraceRequest

MOONCAKE = [
    {"timestamp": 0, "input_length": 1500, "output_length": 6, "hash_ids": [0, 1, 2]},
    {"timestamp": 250, "input_length": 1024, "output_length": 0, "hash_ids": [0, 9]},
    {"timestamp": 250, "input_length": 3, "output_length": 7, "hash_ids": [10]},
]
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
)
RATES = "t_s,rate\n0,2.5\n600,0\n1200,5\n"


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "trace"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mooncake(*requests: object) -> str:
    return "".join(json.dumps(request) + "\n" for request in requests)


def test_mooncake_keeps_whole_blocks_only(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, mooncake(*MOONCAKE)))
    assert trace.block_tokens == 512
    assert list(trace) == [
        TraceRequest(0.0, 1500, 6, (0, 1)),
        TraceRequest(0.25, 1024, 0, (0, 9)),
        TraceRequest(0.25, 3, 7, ()),
    ]


@pytest.mark.parametrize(
    "text",
    [
        AZURE,
        AZURE.replace("\n", "\r\n"),
        AZURE.rstrip("\n"),
        "\ufeff" + AZURE,
        AZURE.replace("6805900", "680590+00:00"),
    ],
    ids=["2023", "crlf", "no last newline", "byte order mark", "2024"],
)
def test_azure_times_count_from_the_first_request(tmp_path: Path, text: str) -> None:
    trace = read_trace(written(tmp_path, text))
    first, second = trace
    assert (first.at_s, first.prompt_tokens, first.output_tokens, first.blocks) == (0.0, 374, 44, ())
    assert second.at_s == pytest.approx(4.314579)
    assert trace.block_tokens == 0


def test_rates_become_arrivals_whose_lengths_come_from_another_trace(tmp_path: Path) -> None:
    lengths = read_trace(written(tmp_path, AZURE))
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    trace = read_trace(path, seed=3, requests=3000, lengths=lengths)
    requests = list(trace)
    assert requests == list(trace), "each iteration gives the same requests"
    assert 2800 < len(requests) < 3200
    assert {(one.prompt_tokens, one.output_tokens) for one in requests} == {(374, 44), (396, 109)}
    assert all(earlier.at_s <= later.at_s for earlier, later in itertools.pairwise(requests))
    assert not any(600 <= one.at_s < 1200 for one in requests), "no request arrives at rate 0"
    early = sum(one.at_s < 600 for one in requests)
    assert early / len(requests) == pytest.approx(1 / 3, abs=0.03)
    assert read_trace(path, seed=4, requests=3000, lengths=lengths).digest != trace.digest


def test_rates_alone_take_the_generators_lengths(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, RATES), requests=500)
    assert trace.block_tokens == 512
    assert max(one.prompt_tokens for one in trace) > 10_000


def test_rounds_through_a_trace_with_prefixes_share_no_blocks(tmp_path: Path) -> None:
    lengths = read_trace(written(tmp_path, mooncake(*MOONCAKE)))
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    requests = list(read_trace(path, requests=60, lengths=lengths))
    rounds = [requests[first : first + 3] for first in range(0, len(requests) - 3, 3)]
    blocks = [{block for one in group for block in one.blocks} for group in rounds]
    assert len(rounds) > 10
    assert all(one.prompt_tokens == 1500 for one in requests[::3])
    assert all(len(group) == 3 for group in blocks), "a round shares within itself what the trace shares"
    assert len(set.union(*blocks)) == 3 * len(rounds), "and nothing with other rounds"


def test_rates_are_read_as_they_are(tmp_path: Path) -> None:
    rates = read_rates(written(tmp_path, RATES))
    assert (rates.step_s, rates.rates) == (600, (2.5, 0, 5))
    assert rates.requests == pytest.approx(4500)
    assert rates.mean_to_peak == pytest.approx(0.5)


def test_the_digest_is_the_files(tmp_path: Path) -> None:
    one = read_trace(written(tmp_path, AZURE)).digest
    assert one == read_trace(written(tmp_path, AZURE)).digest
    assert one != read_trace(written(tmp_path, AZURE.replace("109", "110"))).digest


def line_of(**changes: object) -> str:
    return mooncake(MOONCAKE[0], MOONCAKE[1] | changes)


HOSTILE = {
    "mooncake NaN": (line_of(timestamp=float("nan")), 2, "timestamp is not a number"),
    "mooncake infinite": (line_of(timestamp=float("inf")), 2, "timestamp is not a number"),
    "mooncake negative time": (line_of(timestamp=-1), 2, "timestamp is not a number"),
    "mooncake true": (line_of(input_length=True), 2, "input_length is not a whole number"),
    "mooncake negative": (line_of(output_length=-6), 2, "output_length is not a whole number"),
    "mooncake fraction": (line_of(output_length=1.5), 2, "output_length is not a whole number"),
    "mooncake too many tokens": (line_of(input_length=10**30), 2, "input_length is not a whole number"),
    "mooncake missing field": (mooncake({"timestamp": 0}), 1, "input_length is not a whole number"),
    "mooncake ids missing": (line_of(hash_ids=[0]), 2, "2 blocks of 512, and 1 hash_ids"),
    "mooncake ids of text": (line_of(hash_ids=["a", "b"]), 2, "hash_ids is not a list"),
    "mooncake ids no list": (line_of(hash_ids=7), 2, "hash_ids is not a list"),
    "mooncake unsorted": (mooncake(MOONCAKE[1], MOONCAKE[0]), 2, "Sort the file by timestamp"),
    "mooncake array": (mooncake(MOONCAKE[0], [1, 2]), 2, "no JSON object"),
    "mooncake deep": (mooncake(MOONCAKE[0]) + "[" * 200_000 + "\n", 2, "no JSON"),
    "mooncake huge number": (mooncake(MOONCAKE[0]) + '{"timestamp": ' + "9" * 9000 + "}\n", 2, "no JSON"),
    "mooncake truncated": (mooncake(*MOONCAKE)[:-20], 3, "the last line is cut off"),
    "azure NaN": (AZURE.replace("396", "nan"), 3, "ContextTokens is not a whole number"),
    "azure negative": (AZURE.replace("109", "-109"), 3, "GeneratedTokens is not a whole number"),
    "azure too many tokens": (AZURE.replace("396", "99999999"), 3, "ContextTokens is not a whole number"),
    "azure other digits": (AZURE.replace("396", "٣٩٦"), 3, "ContextTokens is not a whole number"),
    "azure no time": (AZURE.replace("18:15:50", "18:75:50"), 3, "TIMESTAMP is no time"),
    "azure local time": (AZURE.replace("50.9951690", "50.995169+02:00"), 3, "TIMESTAMP is no time"),
    "azure unsorted": (AZURE.replace("18:15:50", "18:15:40"), 3, "Sort the file by TIMESTAMP"),
    "azure header alone": (AZURE.split("\n")[0], 1, "at least one request"),
    "azure fields": (AZURE + "2023-11-16 18:15:51.0,1,2,3\n", 4, "3 fields are needed, 4"),
    "azure truncated": (AZURE + "2023-11-16 18:15:51.0,17", 4, "the last line is cut off"),
    "rates NaN": (RATES.replace("2.5", "NaN"), 2, "rate is not a number"),
    "rates infinite": (RATES.replace("2.5", "1e999"), 2, "rate is not a number"),
    "rates negative": (RATES.replace("2.5", "-2.5"), 2, "rate is not a number"),
    "rates uneven": (RATES.replace("1200", "1300"), 4, "not 600 s after the line before"),
    "rates unsorted": (RATES.replace("600", "-600"), 3, "t_s is not a number"),
    "rates at one time": (RATES.replace("600,", "0,"), 2, "not 0 s after"),
    "rates of nothing": ("t_s,rate\n0,0\n600,0\n", 3, "all rates are 0"),
    "rates of one step": ("t_s,rate\n0,1\n", 2, "two rates or more"),
    "rates fields": (RATES + "1800,5,6\n", 5, "2 fields are needed, 3"),
    "rates truncated": (RATES + "18", 5, "the last line is cut off"),
    "another format": ("a,b\n1,2\n", 1, "none of the known formats"),
    "binary": (b"\x1f\x8b\x08\x00\xff\xfe", 1, "Unpack the file"),
    "long line": ("{" + " " * (1 << 20) + "}\n", 1, "longer than 1024 KiB"),
}


@pytest.mark.parametrize("text, line, words", HOSTILE.values(), ids=HOSTILE)
def test_a_bad_file_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, line: int, words: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}, line {line}: ")
    assert words in str(refused.value)
    assert refused.value.line == line


def test_empty_lines_do_not_shift_the_numbers_of_lines(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 5: "):
        read_trace(written(tmp_path, "\n\n" + AZURE.replace("396", "x")))


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match="is empty"):
        read_trace(written(tmp_path, text))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(TraceError, match="no such file"):
            read_trace(path)


def test_a_file_of_too_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES", 3)
    assert len(list(read_trace(written(tmp_path, AZURE)))) == 2
    with pytest.raises(TraceError, match=r"line 4: the file has more than 3 lines.*head"):
        read_trace(written(tmp_path, AZURE + "2023-11-16 18:15:52.0,1,1\n"))


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(lines.MAX_FILE_BYTES + 1)
    with pytest.raises(TraceError, match="larger than 1024 MiB"):
        read_trace(path)


def test_a_named_format_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE)
    with pytest.raises(TraceError, match="no JSON"):
        read_trace(path, format="mooncake")
    with pytest.raises(TraceError, match="header is not that of a file of rates"):
        read_trace(path, format="rates")
    with pytest.raises(TraceError, match="header is not that of an Azure trace"):
        read_trace(written(tmp_path, RATES), format="azure")
