"""Messages of one exchange, sent and expected: small tensors in the frame, large ones in sealed memory.

A pipe copies 8 MB in 21 ms, sealed memory (`benchmarks.pairs.wire.sealed`) in a few. Everything that can be made ready
before the clock runs is made here.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.pairs.wire.protocol import (
    HEAD,
    MAGIC,
    Kind,
    TensorBytes,
    encode_frame,
    encode_header,
    encode_tensors,
    tensor_fields,
)
from benchmarks.pairs.wire.sealed import Lent, Sealed
from benchmarks.suites.base import TensorSpec

SEALED_LEAST_BYTES = 128 * 1024  # below this the pipe is as fast


@dataclass
class Message:
    """A frame, and its payload apart from it where that is large."""

    frame: list[Any]
    sealed: Sealed | None = None

    def close(self) -> None:
        if self.sealed is not None:
            self.sealed.close()


def message(
    kind: Kind, sequence: int, tensors: Sequence[TensorBytes], answer: Answer | None = None, **fields: Any
) -> Message:
    """A message that carries tensors. With `answer` it says where the answer's large tensors go."""
    if answer is not None and answer.lent is not None:
        fields["lent"] = answer.lent.size_bytes
    size = sum(memoryview(data).nbytes for *_, data in tensors)
    if size < SEALED_LEAST_BYTES:
        return Message(encode_tensors(kind, sequence, tensors, **fields))
    frame = encode_frame(kind, sequence, {"tensors": tensor_fields(tensors), "sealed": size, **fields})
    return Message(frame, Sealed([data for *_, data in tensors]))


@dataclass
class Answer:
    """Expected answer: head and header to the bit, then so many bytes through the pipe or in memory that was lent."""

    due: bytes
    pipe_bytes: int
    lent: Lent | None = None
    payload: bytearray | mmap.mmap = field(default_factory=bytearray)

    def collect(self, piped: memoryview) -> None:
        """Take the bytes, which are final from here on. Raises SealedError."""
        self.payload = bytearray(piped) if self.lent is None else self.lent.collect()

    def close(self) -> None:
        if self.lent is not None:
            self.lent.close()


def answer_for(outputs: Sequence[TensorSpec], sequence: int) -> Answer:
    """The answer to call `sequence` with exactly these tensors."""
    header = encode_header(
        {"tensors": tensor_fields([(spec.name, spec.dtype, spec.shape, b"") for spec in outputs])}
    )
    size = sum(spec.size_bytes for spec in outputs)
    if size < SEALED_LEAST_BYTES:
        return Answer(due_head(header, sequence, size), size)
    return Answer(due_head(header, sequence, 0), 0, Lent(size))


def due_head(header: bytes, sequence: int, payload_bytes: int) -> bytes:
    """Head and header that the answer to call `sequence` has to begin with."""
    return HEAD.pack(MAGIC, Kind.RESULT, b"\0\0\0", sequence, len(header), payload_bytes) + header
