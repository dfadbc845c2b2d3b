"""Grouped products of sorted rows with stacked matrices, as Triton kernels. Imports triton: only `experts_triton` does.

Rows are sorted by expert. A tile is BLOCK_M rows of one expert; a table on the device has each tile's expert and rows,
so that the host never waits for counts. Sums are fp32; fp32 inputs are multiplied as fp32, not as TF32.
"""

# Kernels get their types when launched, and triton is not a dependency: CUDA builds of torch include it.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gated_rows(
    x,
    gate,
    up,
    hidden,
    kept_gate,
    kept_up,
    source,
    tile_expert,
    tile_first,
    tile_last,
    F,
    D,
    KEEP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """hidden[n] = silu(gate_e x) * (up_e x) of x[source[n]]; gate, up [E, F, D]; with KEEP the activation's inputs too."""
    tile = tl.program_id(0)
    first, last = tl.load(tile_first + tile), tl.load(tile_last + tile)
    if first < last:
        expert = tl.load(tile_expert + tile)
        row_M = first + tl.arange(0, BLOCK_M)
        is_row_M = row_M < last
        source_M = tl.load(source + row_M, mask=is_row_M, other=0)
        column_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_column_N = column_N < F
        weight_N = expert * F * D + column_N.to(tl.int64) * D
        gate_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in range(0, D, BLOCK_K):
            at_K = k + tl.arange(0, BLOCK_K)
            is_K = at_K < D
            x_MK = tl.load(
                x + source_M[:, None] * D + at_K[None, :], mask=is_row_M[:, None] & is_K[None, :], other=0.0
            )
            offset_KN = weight_N[None, :] + at_K[:, None]
            is_KN = is_K[:, None] & is_column_N[None, :]
            gate_KN = tl.load(gate + offset_KN, mask=is_KN, other=0.0)
            up_KN = tl.load(up + offset_KN, mask=is_KN, other=0.0)
            gate_MN = tl.dot(x_MK, gate_KN, gate_MN, input_precision="ieee")
            up_MN = tl.dot(x_MK, up_KN, up_MN, input_precision="ieee")
        to_MN = row_M[:, None] * F + column_N[None, :]
        is_MN = is_row_M[:, None] & is_column_N[None, :]
        hidden_MN = gate_MN * tl.sigmoid(gate_MN) * up_MN
        tl.store(hidden + to_MN, hidden_MN.to(hidden.dtype.element_ty), mask=is_MN)
        if KEEP:
            tl.store(kept_gate + to_MN, gate_MN.to(kept_gate.dtype.element_ty), mask=is_MN)
            tl.store(kept_up + to_MN, up_MN.to(kept_up.dtype.element_ty), mask=is_MN)


@triton.jit
def rows_product(
    a,
    b,
    c,
    source,
    tile_expert,
    tile_first,
    tile_last,
    N,
    K,
    stride_be,
    stride_bk,
    stride_bn,
    HAS_SOURCE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """c[n] = a[n] b_e, or a[source[n]] b_e; a [., K] and c [., N] whole, b_e [K, N] by its strides."""
    tile = tl.program_id(0)
    first, last = tl.load(tile_first + tile), tl.load(tile_last + tile)
    if first < last:
        expert = tl.load(tile_expert + tile)
        row_M = first + tl.arange(0, BLOCK_M)
        is_row_M = row_M < last
        source_M = tl.load(source + row_M, mask=is_row_M, other=0) if HAS_SOURCE else row_M
        column_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_column_N = column_N < N
        sum_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in range(0, K, BLOCK_K):
            at_K = k + tl.arange(0, BLOCK_K)
            is_K = at_K < K
            a_MK = tl.load(
                a + source_M[:, None] * K + at_K[None, :], mask=is_row_M[:, None] & is_K[None, :], other=0.0
            )
            offset_KN = expert * stride_be + at_K[:, None] * stride_bk + column_N[None, :] * stride_bn
            b_KN = tl.load(b + offset_KN, mask=is_K[:, None] & is_column_N[None, :], other=0.0)
            sum_MN = tl.dot(a_MK, b_KN, sum_MN, input_precision="ieee")
        to_MN = row_M[:, None] * N + column_N[None, :]
        is_MN = is_row_M[:, None] & is_column_N[None, :]
        tl.store(c + to_MN, sum_MN.to(c.dtype.element_ty), mask=is_MN)


@triton.jit
def weights_product(
    a,
    b,
    c,
    starts,
    M,
    N,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """c_e = a_e^T b_e over an expert's rows starts[e] .. starts[e + 1]; a [., M], b [., N], c [E, M, N]."""
    expert = tl.program_id(0)
    first, last = tl.load(starts + expert), tl.load(starts + expert + 1)
    row_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column_N = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row_M, is_column_N = row_M < M, column_N < N
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(first, last, BLOCK_K):
        at_K = k + tl.arange(0, BLOCK_K)
        is_K = at_K < last
        a_MK = tl.load(
            a + at_K[None, :] * M + row_M[:, None], mask=is_K[None, :] & is_row_M[:, None], other=0.0
        )
        b_KN = tl.load(
            b + at_K[:, None] * N + column_N[None, :], mask=is_K[:, None] & is_column_N[None, :], other=0.0
        )
        sum_MN = tl.dot(a_MK, b_KN, sum_MN, input_precision="ieee")
    to_MN = expert.to(tl.int64) * M * N + row_M[:, None].to(tl.int64) * N + column_N[None, :]
    tl.store(c + to_MN, sum_MN.to(c.dtype.element_ty), mask=is_row_M[:, None] & is_column_N[None, :])
