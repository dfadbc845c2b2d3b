"""What samples write to stderr: seen while they run, bounded, safe to print, kept however they end."""

import io
import os
import time
from collections.abc import Iterator
from typing import IO

import pytest

from benchmarks.sandbox import (
    Limits,
    Sample,
    SandboxLevel,
    python_runtime,
    spawn,
)
from benchmarks.sandbox.levels import MIB
from benchmarks.sandbox.log_capture import CUT, MAX_LINE_CHARACTERS, LogCapture
from benchmarks.sandbox.readable import readable
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

PATIENCE_S = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as source, os.fdopen(writer, "wb", buffering=0) as sink:
        yield source, sink


def take_until(capture: LogCapture | Sample, text: str) -> str:
    """Everything taken until `text` was among it."""
    take = capture.take if isinstance(capture, LogCapture) else capture.take_log
    taken, deadline = "", time.monotonic() + PATIENCE_S
    while text not in taken:
        assert time.monotonic() < deadline, f"only {taken!r} came"
        taken += take()
        time.sleep(0.005)
    return taken


def test_lines_are_taken_once_and_while_they_are_written(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 1000)
    assert capture.take() == ""
    sink.write(b"first\nsecond\nthi")
    assert take_until(capture, "second\n") == "first\nsecond\n"
    sink.write(b"rd\n")
    assert take_until(capture, "third") == "third\n"
    sink.write(b"no end of line")
    sink.close()
    capture.close()
    assert capture.take() == "no end of line"
    assert capture.take() == ""
    assert capture.kept() == b"first\nsecond\nthird\nno end of line"


def test_the_end_of_a_long_log_comes_at_the_end(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 1000)
    lines = [f"line {number:03}\n" for number in range(200)]
    sink.write("".join(lines[:20]).encode())
    beginning = take_until(capture, "line 019")
    sink.write("".join(lines[20:]).encode())
    sink.close()
    capture.close()
    whole = beginning + capture.take()
    assert whole == capture.kept().decode()
    assert whole.startswith("line 000\n")
    assert whole.endswith("line 199\n")
    assert CUT.decode() in whole
    assert len(whole) <= 1000 + len(CUT)


def test_a_log_that_is_not_taken_costs_no_more(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 1000)
    sink.write(b"x" * 5000)
    sink.close()
    capture.close()
    assert capture.take().encode() == capture.kept()


def test_letters_are_not_torn_apart(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 1000)
    for byte in "größer ≥ 𝄞\n".encode():
        sink.write(bytes([byte]))
        assert "�" not in capture.take()
    sink.write(b"\xff broken \xe2\x82\n")
    assert take_until(capture, "broken").endswith("� broken �\n")


def test_a_returning_carriage_begins_a_line(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 1000)
    sink.write(b"10 %\r20 %\r\nwindows\r")
    assert take_until(capture, "20 %") == "10 %\n20 %\n"
    sink.write(b"\nend\n")
    assert take_until(capture, "end") == "windows\nend\n"


def test_an_endless_line_is_not_held_back(pipe: tuple[IO[bytes], IO[bytes]]) -> None:
    source, sink = pipe
    capture = LogCapture(source, None, 100_000)
    sink.write(b"x" * (MAX_LINE_CHARACTERS + 1))
    assert len(take_until(capture, "x")) > 0


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x00\x7f\x9b1m\b", "\\x00\\x7f\\x9b1m\\x08"),
        ("ab\u202edc\u2066", "ab\\u202edc\\u2066"),  # would turn the reading order around
        ("one\u2028two\u2029\ufeff", "one\\u2028two\\u2029\\ufeff"),
        ("größer 漢字 é 👍", "größer 漢字 é 👍"),
        ("over\rwritten", "over\\rwritten"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),  # a lone surrogate, a tag
        (
            "a\u3164b\ufe0f\uffff",
            "a\\u3164b\\ufe0f\\uffff",
        ),  # a letter without a shape, a selector, no character
    ],
)
def test_what_would_act_on_a_terminal_or_page_is_shown_instead(written: str, shown: str) -> None:
    assert readable(written) == shown
    shown.encode()


@pytest.mark.parametrize("letter", ["x", "\x00", "\U000e0041"])
def test_a_cleaned_text_is_never_longer_than_asked_for(letter: str) -> None:
    for length in (1, 99, 100, 101, 5_000):
        cleaned = readable("begin" + letter * length + "the end", most=100)
        assert len(cleaned) <= 100 and cleaned.endswith("the end")


# -- in a real sandbox -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def level() -> SandboxLevel:
    return level_or_skip("best")


def start(level: SandboxLevel, code: str, **limits: object) -> Sample:
    python = python_runtime()
    setting = Limits(**{"wall_s": 30.0, "log_bytes": 4000} | limits)  # type: ignore[arg-type]
    words = "import sys, time\ndef say(text): print(text, file=sys.stderr, flush=True)\n"
    return spawn(
        [*python.argv, "-c", words + code],
        level=level,
        mounts=python.mounts,
        limits=setting,
        env=python.env,
        slot=0,
    )


@pytest.mark.sandbox
def test_a_running_samples_words_are_seen_before_it_ends(level: SandboxLevel) -> None:
    with start(
        level, "say('one'); sys.stdin.readline(); say('two \\x1b[1m'); sys.stdin.readline()"
    ) as sample:
        assert take_until(sample, "one") == "one\n"
        sample.stdin.write(b"\n")
        assert take_until(sample, "two") == "two \\x1b[1m\n"
        assert sample.returncode is None


@pytest.mark.sandbox
@pytest.mark.parametrize(
    "ending", ["killed", "frozen and killed", "hangs", "memory", "processes", "crashes", "raises"]
)
def test_last_words_are_kept_on_every_ending(level: SandboxLevel, ending: str) -> None:
    act = {
        "killed": "time.sleep(60)",
        "frozen and killed": "time.sleep(60)",
        "hangs": "while True: pass",
        "memory": "held = []\nwhile True: held.append(bytearray(b'x') * (1 << 20))",
        # Not one traceback of each process that may fork no more: those would push the last words out.
        "processes": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "crashes": "import ctypes; ctypes.string_at(0)",
        "raises": "raise ValueError('the reason')",
    }[ending]
    limits: dict[str, object] = {"memory_bytes": 96 * MIB, "pids": 24}
    if ending == "hangs":
        limits["wall_s"] = 1.0
    with start(level, f"say('first words')\nsay('.' * 6000)\nsay('last words')\n{act}", **limits) as sample:
        words = take_until(sample, "first words")
        if ending in ("killed", "frozen and killed", "processes"):
            deadline = time.monotonic() + PATIENCE_S
            while b"last words" not in sample.log() and time.monotonic() < deadline:
                time.sleep(0.01)
            if ending.startswith("frozen"):
                sample.freeze()
            sample.kill()
        sample.wait(PATIENCE_S)
    words += sample.take_log()
    assert words.startswith("first words\n")
    assert "last words\n" in words
    assert len(words.encode()) < 6000
    if ending == "raises":
        assert words.endswith("ValueError: the reason\n")
    assert sample.take_log() == ""


@pytest.mark.sandbox
def test_a_sink_and_taking_do_not_disturb_each_other(level: SandboxLevel) -> None:
    python, sink = python_runtime(), io.BytesIO()
    with spawn(
        [*python.argv, "-c", "import sys; print('heard', file=sys.stderr)"],
        level=level,
        mounts=python.mounts,
        limits=Limits(wall_s=20),
        env=python.env,
        slot=0,
        stderr=sink,
    ) as sample:
        sample.wait(PATIENCE_S)
    assert sample.take_log() == "heard\n"
    assert sink.getvalue() == sample.log() == b"heard\n"
