"""The judge's end of the pipes against samples that answer late, wrongly, too much, in pieces or not at all."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from benchmarks.pairs.wire import protocol
from benchmarks.pairs.wire.channel import (
    MAX_ERROR_BYTES,
    Channel,
    SampleClosed,
    SampleRaised,
    SampleSilent,
    WrongForm,
)
from benchmarks.pairs.wire.messages import Answer, Message, due_head
from benchmarks.pairs.wire.protocol import Kind, ProtocolError

pytestmark = pytest.mark.slow

CALL = protocol.encode_tensors(Kind.CALL, 7, [("x", "float32", (4,), bytes(16))])
HEADER = protocol.encode_header({"tensors": protocol.tensor_fields([("y", "float32", (4,), b"")])})
DUE = due_head(HEADER, 7, 16)
RIGHT = DUE + bytes(range(16))


@dataclass
class Pipes:
    """Both ends of both pipes; `sample_in` and `sample_out` are the sample's."""

    channel: Channel
    sample_in: int
    sample_out: int

    def exchange(self, timeout_ms: int = 5_000) -> tuple[int, bytes]:
        answer = Answer(DUE, 16)
        return self.channel.exchange(Message(CALL), answer, timeout_ms), bytes(answer.payload)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    sample_in, judge_out = os.pipe()
    judge_in, sample_out = os.pipe()
    yield Pipes(Channel(judge_out, judge_in), sample_in, sample_out)
    for end in (sample_in, judge_out, judge_in, sample_out):
        try:
            os.close(end)
        except OSError:
            continue  # the test closed it


def in_background(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def result(sequence: int, dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    return b"".join(protocol.encode_tensors(Kind.RESULT, sequence, [("y", dtype, shape, bytes(size))]))


def error(sequence: int, text: str) -> bytes:
    return b"".join(protocol.encode_frame(Kind.ERROR, sequence, {"stage": "call", "error": text}))


def test_the_due_answer_is_read_and_the_call_arrives_whole(pipes: Pipes) -> None:
    os.write(pipes.sample_out, RIGHT)
    elapsed_ns, payload = pipes.exchange()
    assert payload == bytes(range(16))
    assert elapsed_ns > 0
    assert os.read(pipes.sample_in, 1000) == b"".join(bytes(part) for part in CALL)
    assert not pipes.channel.has_unread()


def test_the_clock_runs_until_the_last_byte_has_arrived(pipes: Pipes) -> None:
    def answer() -> None:
        os.read(pipes.sample_in, 1000)
        for place in range(len(RIGHT)):
            os.write(pipes.sample_out, RIGHT[place : place + 1])
        # all but the last byte would do for a clock that stops at the first

    def late() -> None:
        os.read(pipes.sample_in, 1000)  # the call is here, so the clock is running
        os.write(pipes.sample_out, RIGHT[:-1])
        time.sleep(0.2)
        os.write(pipes.sample_out, RIGHT[-1:])

    for act, least_ns in ((answer, 0), (late, 200_000_000)):
        thread = in_background(act)
        elapsed_ns, payload = pipes.exchange()
        thread.join()
        assert payload == bytes(range(16))
        assert elapsed_ns >= least_ns


def test_a_large_call_does_not_wait_for_the_sample_to_read_it_first(pipes: Pipes) -> None:
    size = 4 << 20
    call = protocol.encode_tensors(Kind.CALL, 7, [("x", "uint8", (size,), bytes(size))])
    received = bytearray()

    def sample() -> None:
        while len(received) < size:
            received.extend(os.read(pipes.sample_in, 1 << 20))
        os.write(pipes.sample_out, RIGHT)

    thread = in_background(sample)
    pipes.channel.exchange(Message(call), Answer(DUE, 16), 10_000)
    thread.join()
    assert len(received) == sum(memoryview(part).nbytes for part in call)


def test_bytes_after_the_answer_are_seen(pipes: Pipes) -> None:
    os.write(pipes.sample_out, RIGHT + b"!")
    pipes.exchange()
    assert pipes.channel.has_unread()


@pytest.mark.parametrize(
    ("answer", "raised", "words"),
    [
        (result(7, "float64", (4,), 32), WrongForm, "float64.*float32"),
        (result(7, "float32", (5,), 20), WrongForm, r"\[5\].*\[4\]"),
        (result(7, "int32", (4,), 16), WrongForm, "int32"),
        (result(7, "float32", (2, 2), 16), WrongForm, r"\[2, 2\]"),
        (result(6, "float32", (4,), 16), ProtocolError, "number 6"),
        (b"".join(protocol.encode_frame(Kind.LOADED, 7, {})), ProtocolError, "LOADED"),
        (b"verdict: gain, 1000 % faster, honestly" * 4, ProtocolError, "begin a frame"),
        (error(7, "ValueError: no"), SampleRaised, "ValueError: no"),
        (error(6, "ValueError: no"), ProtocolError, "ERROR"),
    ],
)
def test_anything_but_the_due_answer_ends_the_exchange(
    pipes: Pipes, answer: bytes, raised: type[Exception], words: str
) -> None:
    os.write(pipes.sample_out, answer)
    with pytest.raises(raised, match=words):
        pipes.exchange(timeout_ms=2_000)


def test_an_error_s_words_are_bounded(pipes: Pipes) -> None:
    claimed = protocol.HEAD.pack(protocol.MAGIC, Kind.ERROR, b"\0\0\0", 7, protocol.MAX_HEADER_BYTES, 1)
    os.write(pipes.sample_out, claimed + b"{" * 100)
    with pytest.raises(ProtocolError, match="more than its header"):
        pipes.exchange()
    assert MAX_ERROR_BYTES >= protocol.MAX_HEADER_BYTES


def test_a_sample_that_says_nothing_runs_into_the_deadline(pipes: Pipes) -> None:
    start = time.monotonic()
    with pytest.raises(SampleSilent):
        pipes.exchange(timeout_ms=200)
    assert 0.15 < time.monotonic() - start < 5


def test_a_sample_that_never_finishes_runs_into_the_same_deadline(pipes: Pipes) -> None:
    stop = threading.Event()

    def drip() -> None:
        for byte in RIGHT[:-1]:
            if stop.wait(0.02):
                return
            os.write(pipes.sample_out, bytes([byte]))

    thread = in_background(drip)
    with pytest.raises(SampleSilent):
        pipes.exchange(timeout_ms=300)
    stop.set()
    thread.join()


def test_a_sample_that_does_not_read_runs_into_the_deadline(pipes: Pipes) -> None:
    size = 4 << 20
    call = protocol.encode_tensors(Kind.CALL, 7, [("x", "uint8", (size,), bytes(size))])
    with pytest.raises(SampleSilent):
        pipes.channel.exchange(Message(call), Answer(DUE, 16), 200)


def test_a_sample_that_ended_is_noticed_at_once(pipes: Pipes) -> None:
    os.close(pipes.sample_out)
    with pytest.raises(SampleClosed):
        pipes.exchange()
    os.close(pipes.sample_in)
    with pytest.raises(SampleClosed):
        pipes.exchange()


def test_only_the_awaited_kind_is_taken_for_ready(pipes: Pipes) -> None:
    os.write(pipes.sample_out, b"".join(protocol.encode_frame(Kind.READY, 0, {"anything": 1})))
    pipes.channel.receive_empty(Kind.READY, 0, 1_000)
    os.write(pipes.sample_out, b"".join(protocol.encode_frame(Kind.READY, 0, {})))
    with pytest.raises(ProtocolError, match="READY came where LOADED was expected"):
        pipes.channel.receive_empty(Kind.LOADED, 1, 1_000)


def test_an_error_instead_of_loaded_carries_the_reason(pipes: Pipes) -> None:
    os.write(pipes.sample_out, error(1, "ModuleNotFoundError: model"))
    with pytest.raises(SampleRaised, match="ModuleNotFoundError"):
        pipes.channel.receive_empty(Kind.LOADED, 1, 1_000)
