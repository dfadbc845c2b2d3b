"""C structs of the compiled engine, field by field as in model/csrc/serving/model.h.

`check` compares their sizes with the library's and refuses a library that was built from other sources.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

from model.serving.executors.packed import Matrix, PackedStack, matrix


class TablesError(Exception):
    """The library was built from other sources than these structs."""


class Stack(Structure):
    _fields_ = [("first", Matrix), ("bytes", c_int64)]


class AttentionWeights(Structure):
    _fields_ = [
        ("down", Matrix),
        ("out", Matrix),
        ("q_up", Matrix),
        ("absorb", Stack),
        ("restore", Stack),
        ("norm", c_void_p),
        ("b_down", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("b_out", c_void_p),
        ("head_norm", c_int32),
        ("window", c_int32),
        ("clip", c_float),
        ("scale", c_float),
    ]


class FeedForward(Structure):
    _fields_ = [
        ("gate_up", Stack),
        ("down", Stack),
        ("b_gate", c_void_p),
        ("b_up", c_void_p),
        ("b_down", c_void_p),
        ("width", c_int32),
        ("padding", c_int32),
    ]


class Router(Structure):
    _fields_ = [
        ("weight", Matrix),
        ("bias", c_void_p),
        ("load", c_void_p),
        ("top_k", c_int32),
        ("n_groups", c_int32),
        ("top_groups", c_int32),
        ("is_sigmoid", c_int32),
        ("sums_two", c_int32),
        ("normalises", c_int32),
        ("scale", c_float),
        ("padding", c_int32),
    ]


class Layer(Structure):
    _fields_ = [
        ("attention", AttentionWeights),
        ("ffn_norm", c_void_p),
        ("routed", FeedForward),
        ("shared", FeedForward),
        ("router", Router),
        ("shared_gate", c_void_p),
    ]


class Model(Structure):
    _fields_ = [
        ("layers", c_void_p),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("head", Matrix),
        ("cache", c_void_p),
        ("n_layers", c_int32),
        ("n_blocks", c_int32),
        ("n_threads", c_int32),
        ("d_model", c_int32),
        ("n_heads", c_int32),
        ("n_kv_heads", c_int32),
        ("d_key", c_int32),
        ("d_value", c_int32),
        ("d_rotary", c_int32),
        ("is_interleaved", c_int32),
        ("d_nope", c_int32),
        ("d_out", c_int32),
        ("kind", c_int32),
        ("cache_kind", c_int32),
        ("embedding_kind", c_int32),
        ("eps", c_float),
        ("latent_eps", c_float),
    ]


class PartRow(Structure):
    _fields_ = [
        ("blocks", c_void_p),
        ("first", c_int32),
        ("n", c_int32),
        ("past", c_int32),
        ("padding", c_int32),
    ]


class Step(Structure):
    _fields_ = [
        ("ids", c_void_p),
        ("turns", c_void_p),
        ("wanted", c_void_p),
        ("parts", c_void_p),
        ("logits", c_void_p),
        ("memory", c_void_p),
        ("memory_bytes", c_int64),
        ("n_tokens", c_int32),
        ("n_parts", c_int32),
        ("n_wanted", c_int32),
        ("most_keys", c_int32),
    ]


MIRRORED = (Matrix, Stack, AttentionWeights, FeedForward, Router, Layer, Model, PartRow, Step)


def stack(packed: PackedStack) -> Stack:
    return Stack(matrix(packed), packed.bytes_each)


def check(library: ctypes.CDLL) -> None:
    """Declare the library's functions. Raises TablesError where its functions or structs differ."""
    try:
        library.serve_sizes.restype = c_int32
        library.serve_block_bytes.restype = c_int64
        library.serve_step.restype = c_int64
        library.serve_step.argtypes = [c_void_p, c_void_p]
        library.serve_pack.restype = c_int32
        library.serve_pack.argtypes = [c_void_p, c_void_p, c_void_p, c_int32, c_int32]
        library.serve_product.restype = c_int32
        library.serve_product.argtypes = [c_void_p, c_void_p, c_int32, c_void_p]
        sizes = (c_int64 * 32)()
        n_sizes = library.serve_sizes(sizes)
    except AttributeError as error:
        raise TablesError(
            f"the native library has no compiled engine ({error}): rebuild it from this tree"
        ) from error
    expected = [ctypes.sizeof(kind) for kind in MIRRORED]
    if list(sizes[:n_sizes]) != expected:
        raise TablesError(
            f"the native library's structs are {list(sizes[:n_sizes])} bytes, not {expected}: rebuild it"
        )
