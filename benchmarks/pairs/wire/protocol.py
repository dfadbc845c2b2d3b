"""Frames between the judge and a sandboxed sample: a fixed binary head, a small JSON header, raw tensor bytes.

Used on both sides: the judge imports it from the installed platform, the sample gets this one file mounted next to its
program. Standard library only. There is no pickle, and nothing is executed or allocated on the word of the other side
beyond the stated caps.

    head     magic "GSF1", kind (1 byte), 3 zero bytes, sequence (4), length of the header (4), of the payload (8)
    header   JSON object; for tensors {"tensors": [{"name", "dtype", "shape"}, ...]} and what the kind needs
    payload  the tensors' bytes, C order, little-endian, one after the other without gaps
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

MAGIC = b"GSF1"
HEAD = struct.Struct("<4sB3sIIQ")
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 512 * 1024 * 1024
MAX_TENSORS = 256
MAX_HEADER_DEPTH = 16
ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
}

TensorBytes = tuple[str, str, tuple[int, ...], Any]  # name, dtype, shape, a bytes-like object


class Kind(IntEnum):
    """Kind of a frame."""

    READY = 1  # sample: the suite's libraries are imported, nothing of the tree is
    LOAD = 2  # judge: configuration and weights; import the tree and build
    LOADED = 3  # sample: built
    CALL = 4  # judge: inputs of one call
    RESULT = 5  # sample: the answer to the call of the same sequence number
    ECHO = 6  # judge: send these bytes back without calling the stack
    ERROR = 7  # sample: the stack raised; {"stage", "error"}


class ProtocolError(ValueError):
    """The other side sent something that is not the frame it has to send."""


def encode_header(fields: dict[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    data = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(data) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(data)} bytes; at most {MAX_HEADER_BYTES}")
    return data


def decode_header(data: bytes) -> dict[str, Any]:
    """Strict JSON object without repeated keys and without NaN."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(items)
        if len(fields) != len(items):
            raise ProtocolError("a key is repeated in the header")
        return fields

    def refuse(name: str) -> Any:
        raise ProtocolError(f"{name} in the header")

    try:
        fields = json.loads(data.decode("ascii"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # no ASCII, no JSON, or a number of thousands of digits
        raise ProtocolError(f"the header is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("the header is not a JSON object")
    _refuse_depth(fields)
    return fields


def _refuse_depth(fields: dict[str, Any]) -> None:
    """What nests deeper than this could not be printed everywhere that it could be read."""
    level: list[Any] = [fields]
    for _ in range(MAX_HEADER_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ProtocolError(f"the header nests deeper than {MAX_HEADER_DEPTH} levels")


def tensor_fields(tensors: Iterable[TensorBytes]) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape, _ in tensors]


def encode_frame(kind: Kind, sequence: int, fields: dict[str, Any], payload: Sequence[Any] = ()) -> list[Any]:
    """The frame as a list of buffers for one gathered write."""
    header = encode_header(fields)
    size = sum(memoryview(part).nbytes for part in payload)
    if size > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"payload of {size} bytes; at most {MAX_PAYLOAD_BYTES}")
    head = HEAD.pack(MAGIC, kind, b"\0\0\0", sequence, len(header), size)
    return [head + header, *payload]


def encode_tensors(kind: Kind, sequence: int, tensors: Sequence[TensorBytes], **fields: Any) -> list[Any]:
    """A frame that carries tensors."""
    return encode_frame(
        kind, sequence, {"tensors": tensor_fields(tensors), **fields}, [data for *_, data in tensors]
    )


def parse_head(data: bytes) -> tuple[Kind, int, int, int]:
    """(kind, sequence, header length, payload length), caps checked."""
    magic, kind, zeros, sequence, header_bytes, payload_bytes = HEAD.unpack(data)
    if magic != MAGIC or zeros != b"\0\0\0":
        raise ProtocolError("bytes that do not begin a frame")
    if kind not in Kind._value2member_map_:
        raise ProtocolError(f"unknown kind of frame {kind}")
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"frame of {header_bytes} + {payload_bytes} bytes is over the caps")
    return Kind(kind), sequence, header_bytes, payload_bytes


def split_tensors(
    fields: dict[str, Any], payload: memoryview
) -> dict[str, tuple[str, tuple[int, ...], memoryview]]:
    """name -> (dtype, shape, bytes); every size is checked exactly."""
    rows = fields.get("tensors")
    if not isinstance(rows, list) or len(rows) > MAX_TENSORS:
        raise ProtocolError("the header names no list of tensors")
    tensors: dict[str, tuple[str, tuple[int, ...], memoryview]] = {}
    offset = 0
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"name", "dtype", "shape"}:
            raise ProtocolError("a tensor has exactly name, dtype and shape")
        name, dtype, shape = row["name"], row["dtype"], row["shape"]
        if (
            not isinstance(name, str)
            or name in tensors
            or not isinstance(dtype, str)
            or dtype not in ITEM_BYTES
        ):
            raise ProtocolError("a tensor's name or dtype is not allowed")
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= 1 << 40 for n in shape):
            raise ProtocolError("a tensor's shape is not a list of sizes")
        size = ITEM_BYTES[dtype]
        for n in shape:
            size *= n
        if size > payload.nbytes - offset:
            raise ProtocolError(f"tensor {name} is longer than the payload")
        tensors[name] = (dtype, tuple(shape), payload[offset : offset + size])
        offset += size
    if offset != payload.nbytes:
        raise ProtocolError(f"{payload.nbytes - offset} bytes of payload belong to no tensor")
    return tensors
