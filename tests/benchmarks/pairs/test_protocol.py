"""Frames: what is written is what is read, and nothing else is."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pairs.wire import protocol
from benchmarks.pairs.wire.protocol import HEAD, Kind, ProtocolError

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def joined(frame: list[bytes]) -> bytes:
    return b"".join(bytes(part) for part in frame)


def parsed(data: bytes) -> tuple[Kind, int, dict[str, tuple[str, tuple[int, ...], memoryview]]]:
    kind, sequence, header_bytes, payload_bytes = protocol.parse_head(data[: HEAD.size])
    header = data[HEAD.size : HEAD.size + header_bytes]
    payload = data[HEAD.size + header_bytes :]
    assert len(payload) == payload_bytes
    return kind, sequence, protocol.split_tensors(protocol.decode_header(header), memoryview(payload))


@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(st.sampled_from(sorted(protocol.ITEM_BYTES)), SHAPES), max_size=4
    ),
    st.integers(0, 2**32 - 1),
    st.randoms(),
)
def test_tensors_come_back_as_they_were_sent(forms, sequence, random) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    tensors = []
    for name, (dtype, shape) in forms.items():
        size = protocol.ITEM_BYTES[dtype]
        for length in shape:
            size *= length
        tensors.append((name, dtype, shape, random.randbytes(size)))
    kind, number, found = parsed(joined(protocol.encode_tensors(Kind.CALL, sequence, tensors)))
    assert (kind, number) == (Kind.CALL, sequence)
    assert {name: (dtype, shape, bytes(data)) for name, (dtype, shape, data) in found.items()} == {
        name: (dtype, shape, data) for name, dtype, shape, data in tensors
    }


@given(st.binary(min_size=HEAD.size, max_size=HEAD.size))
def test_no_head_gets_past_the_caps(data: bytes) -> None:
    try:
        _, _, header_bytes, payload_bytes = protocol.parse_head(data)
    except ProtocolError:
        return
    assert data[:4] == protocol.MAGIC
    assert header_bytes <= protocol.MAX_HEADER_BYTES and payload_bytes <= protocol.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": b"GSF2"}, "do not begin a frame"),
        ({"zeros": b"\0\1\0"}, "do not begin a frame"),
        ({"kind": 99}, "unknown kind"),
        ({"header": protocol.MAX_HEADER_BYTES + 1}, "over the caps"),
        ({"payload": protocol.MAX_PAYLOAD_BYTES + 1}, "over the caps"),
    ],
)
def test_heads_that_are_none_are_refused(change: dict[str, object], message: str) -> None:
    fields = {
        "magic": protocol.MAGIC,
        "kind": 5,
        "zeros": b"\0\0\0",
        "sequence": 1,
        "header": 2,
        "payload": 0,
    } | change
    with pytest.raises(ProtocolError, match=message):
        protocol.parse_head(struct.pack("<4sB3sIIQ", *fields.values()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\xff"}',
        b'{"a":1}x',
        b"[" * 60_000,
        b'{"a":' + b"9" * 5_000 + b"}",  # more digits than Python reads
    ],
)
def test_headers_that_are_not_one_strict_object_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_header(data)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "x", "dtype": "object", "shape": [1]},
        {"name": "x", "dtype": "float32"},
        {"name": "x", "dtype": "float32", "shape": [1], "strides": [4]},
        {"name": 3, "dtype": "float32", "shape": [1]},
        {"name": "x", "dtype": ["float32"], "shape": [1]},
        {"name": "x", "dtype": "float32", "shape": [-1]},
        {"name": "x", "dtype": "float32", "shape": [True]},
        {"name": "x", "dtype": "float32", "shape": [1.0]},
        {"name": "x", "dtype": "float32", "shape": 1},
        {"name": "x", "dtype": "float32", "shape": [1 << 40, 1 << 40]},
        {"name": "x", "dtype": "float32", "shape": [2]},
        {"name": "x", "dtype": "float32", "shape": [0]},
        "x",
    ],
)
def test_tensors_that_do_not_fit_their_bytes_are_refused(row: object) -> None:
    with pytest.raises(ProtocolError):
        protocol.split_tensors({"tensors": [row]}, memoryview(bytes(4)))


def test_two_tensors_of_one_name_and_missing_lists_are_refused() -> None:
    row = {"name": "x", "dtype": "int8", "shape": [2]}
    for fields in (
        {"tensors": [row, row]},
        {},
        {"tensors": {}},
        {"tensors": [row] * (protocol.MAX_TENSORS + 1)},
    ):
        with pytest.raises(ProtocolError):
            protocol.split_tensors(fields, memoryview(bytes(4)))


def test_our_own_frames_are_capped_too() -> None:
    with pytest.raises(ProtocolError, match="header"):
        protocol.encode_frame(Kind.ERROR, 0, {"error": "x" * protocol.MAX_HEADER_BYTES})
    with pytest.raises(ValueError, match="JSON"):
        protocol.encode_header({"a": float("nan")})


def test_headers_are_canonical() -> None:
    assert protocol.encode_header({"b": 1, "a": "\u00e9"}) == b'{"a":"\\u00e9","b":1}'
    assert json.loads(protocol.encode_header({"b": 1, "a": 2})) == {"a": 2, "b": 1}


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_header_that_nests_is_refused(opening: str, closing: str) -> None:
    for depth in (20, 500, 900, 960, 5_000):
        text = f'{{"error":{opening * depth}1{closing * depth}}}'
        with pytest.raises(ProtocolError, match=r"nests|not JSON"):
            protocol.decode_header(text.encode())
