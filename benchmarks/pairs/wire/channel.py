"""The judge's end of a sample's two pipes: writes frames, reads exactly the expected frame, keeps the clock.

Large tensors do not go through the pipes, but through a socket that only the judge can send by.

Everything that arrives is untrusted: sizes are fixed before reading, every wait has a deadline, and whatever is not the
expected frame ends the exchange. See `benchmarks.pairs.wire.protocol` for the format.
"""

import fcntl
import os
import select
import socket
import time
from contextlib import suppress
from typing import Any, NoReturn

from benchmarks.pairs.wire.messages import Answer, Message
from benchmarks.pairs.wire.protocol import (
    HEAD,
    Kind,
    ProtocolError,
    decode_header,
    parse_head,
)
from benchmarks.pairs.wire.sealed import Lent, Sealed, SealedError

PIPE_BYTES = 1 << 20  # a whole answer fits, so that a call costs two wake-ups and not one per 64 KiB
MAX_ERROR_BYTES = 64 * 1024


class SampleClosed(Exception):
    """The sample closed its pipes: it has ended, or is about to."""


class SampleSilent(Exception):
    """The deadline passed."""


class SampleRaised(Exception):
    """The sample answered that the stack raised."""


class WrongForm(Exception):
    """The sample answered the expected call, but with another dtype or shape than asked for."""


class Channel:
    """Non-blocking reads and writes with deadlines on two file descriptors, which stay the caller's to close."""

    def __init__(self, write_fd: int, read_fd: int, socket: socket.socket | None = None) -> None:
        self._write_fd, self._read_fd, self._socket = write_fd, read_fd, socket
        for fd in (write_fd, read_fd):
            os.set_blocking(fd, False)
            with suppress(PermissionError):  # over the user's limit: 64 KiB work as well, a little slower
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._writable = select.poll()
        self._writable.register(write_fd, select.POLLOUT)
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)

    def exchange(self, message: Message, answer: Answer, timeout_ms: int) -> int:
        """Send `message`, read exactly the expected answer into `answer`; return the nanoseconds it took.

        The clock runs from before the first byte is sent until the last byte has arrived and none can change any
        more. Raises SampleClosed, SampleSilent, SampleRaised (with the sample's words), WrongForm or ProtocolError.
        """
        buffer = bytearray(len(answer.due) + answer.pipe_bytes)
        start = time.perf_counter_ns()
        deadline = start + timeout_ms * 1_000_000
        self._send_message(message, deadline)
        if answer.lent is not None:
            self._pass_on(answer.lent, deadline)
        self._receive_due(memoryview(buffer), answer.due, deadline)
        try:
            answer.collect(memoryview(buffer)[len(answer.due) :])
        except SealedError as error:
            raise ProtocolError(str(error)) from None
        return time.perf_counter_ns() - start

    def receive_empty(self, kind: Kind, sequence: int, timeout_ms: int) -> None:
        """Wait for a frame of this kind without payload, whatever its header says."""
        deadline = time.perf_counter_ns() + timeout_ms * 1_000_000
        head = bytearray(HEAD.size)
        self._receive(memoryview(head), deadline)
        got, number, header_bytes, payload_bytes = parse_head(bytes(head))
        if got is Kind.ERROR:
            self._raise_error(bytes(head), deadline)
        if (got, number, payload_bytes) != (kind, sequence, 0):
            raise ProtocolError(f"{got.name} came where {kind.name} was expected")
        self._receive(memoryview(bytearray(header_bytes)), deadline)

    def send(self, message: Message, timeout_ms: int) -> None:
        """Send `message` without waiting for an answer."""
        self._send_message(message, time.perf_counter_ns() + timeout_ms * 1_000_000)

    def has_unread(self) -> bool:
        """True if bytes wait that no call asked for."""
        return any(event & select.POLLIN for _, event in self._readable.poll(0))

    def _send_message(self, message: Message, deadline: int) -> None:
        self._send(message.frame, deadline)
        if message.sealed is not None:
            self._pass_on(message.sealed, deadline)

    def _pass_on(self, memory: Sealed | Lent, deadline: int) -> None:
        """One that cannot be sent is of a sample that has ended, or does not take what it was sent before."""
        if self._socket is None:
            raise ValueError("this channel has no socket for large tensors")
        try:
            memory.send(self._socket, deadline)
        except SealedError:
            if time.perf_counter_ns() >= deadline:
                raise SampleSilent from None
            raise SampleClosed from None

    def _send(self, frame: list[Any], deadline: int) -> None:
        for buffer in frame:
            view = memoryview(buffer).cast("B")
            while view.nbytes:
                try:
                    view = view[os.write(self._write_fd, view) :]
                except BlockingIOError:
                    self._wait(self._writable, deadline)
                except BrokenPipeError:
                    raise SampleClosed from None

    def _receive(self, view: memoryview, deadline: int) -> None:
        while view.nbytes:
            view = view[self._read_some(view, deadline) :]

    def _receive_due(self, view: memoryview, due: bytes, deadline: int) -> None:
        """Fill `view`, giving up as soon as the beginning is not `due`."""
        filled = 0
        is_checked = False
        while filled < view.nbytes:
            filled += self._read_some(view[filled:], deadline)
            if not is_checked and filled >= HEAD.size:
                if bytes(view[: HEAD.size]) != due[: HEAD.size]:
                    self._refuse(bytes(view[:filled]), due, deadline)
                is_checked = True
        if bytes(view[: len(due)]) != due:
            self._refuse(bytes(view[: len(due)]), due, deadline)

    def _refuse(self, got: bytes, due: bytes, deadline: int) -> NoReturn:
        """Say what came instead of the expected answer."""
        kind, sequence, header_bytes, _ = parse_head(got[: HEAD.size])
        _, due_sequence, _, _ = parse_head(due[: HEAD.size])
        if kind is Kind.ERROR and sequence == due_sequence:
            self._raise_error(got, deadline)
        if kind is not Kind.RESULT or sequence != due_sequence:
            raise ProtocolError(
                f"{kind.name} number {sequence} came where answer {due_sequence} was expected"
            )
        rest = bytearray(max(0, HEAD.size + header_bytes - len(got)))
        self._receive(memoryview(rest), deadline)
        stated = decode_header((got + bytes(rest))[HEAD.size : HEAD.size + header_bytes])
        asked = decode_header(due[HEAD.size :])
        raise WrongForm(f"the answer is {_form(stated)}, expected is {_form(asked)}")

    def _raise_error(self, got: bytes, deadline: int) -> NoReturn:
        _, _, header_bytes, payload_bytes = parse_head(got[: HEAD.size])
        total = HEAD.size + header_bytes
        if payload_bytes or len(got) > total or header_bytes > MAX_ERROR_BYTES:
            raise ProtocolError("an ERROR frame carries more than its header")
        rest = bytearray(total - len(got))
        self._receive(memoryview(rest), deadline)
        fields = decode_header(got[HEAD.size :] + bytes(rest))
        raise SampleRaised(str(fields.get("error", "the stack raised"))[-MAX_ERROR_BYTES:])

    def _read_some(self, view: memoryview, deadline: int) -> int:
        while True:
            try:
                count = os.readv(self._read_fd, [view])
            except BlockingIOError:
                self._wait(self._readable, deadline)
                continue
            if count == 0:
                raise SampleClosed
            return count

    def _wait(self, poll: select.poll, deadline: int) -> None:
        left_ms = (deadline - time.perf_counter_ns()) // 1_000_000
        if left_ms <= 0 or not poll.poll(left_ms + 1):
            raise SampleSilent


def _form(header: dict[str, Any]) -> str:
    """Dtype and shape for people, of whatever a header says."""
    tensors = header.get("tensors")
    words = (
        [f"{tensor.get('dtype')}{tensor.get('shape')}" for tensor in tensors if isinstance(tensor, dict)]
        if isinstance(tensors, list)
        else []
    )
    return ", ".join(words)[:200] or "no tensor"
