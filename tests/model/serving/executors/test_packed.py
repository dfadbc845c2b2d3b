"""Packed weights and the compiled product over them: exact where numbers are integers, else as near as rounding allows."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from model import native
from model.serving.executors import native_tables as tables
from model.serving.executors.packed import (
    GROUP,
    GROUP_BYTES,
    STRIP,
    PackedStack,
    Weights,
    matrix,
    pack,
)
from model.serving.executors.packed_memory import OwnMemory

ALL_WEIGHTS: tuple[Weights, ...] = get_args(Weights)
SHAPES = [(1, 1), (16, 8), (33, 7), (64, 130), (95, 64)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = native.library()
    assert library is not None, native.state()
    tables.check(library)
    return library


def packed(
    library: ctypes.CDLL, weight: Tensor, weights: Weights, interleaved: Tensor | None = None
) -> PackedStack:
    return pack(library, weight, weights, OwnMemory(), interleaved)


def quantised(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [N, K] and the scale of each output [N]."""
    scale_N = weight_NK.abs().amax(1) / 127
    return (weight_NK / torch.where(scale_N > 0, scale_N, 1)[:, None]).round(), scale_N


def product(library: ctypes.CDLL, stack: PackedStack, x_MK: Tensor) -> Tensor:
    out_MN = torch.full((x_MK.shape[0], stack.n), torch.nan)
    table, x_MK = matrix(stack), x_MK.contiguous()
    assert library.serve_product(ctypes.byref(table), x_MK.data_ptr(), x_MK.shape[0], out_MN.data_ptr())
    return out_MN


def as_multiplied(weight_NK: Tensor, weights: Weights) -> Tensor:
    """The fp64 matrix that the packed one stands for."""
    if weights == "fp32":
        return weight_NK.double()
    if weights == "bf16":
        return weight_NK.bfloat16().double()
    if weights == "int4":
        return grouped(weight_NK, in_four_bits)
    numbers, scale_N = quantised(weight_NK)
    return numbers.double() * scale_N.double()[:, None]


def in_four_bits(group: Tensor) -> Tensor:
    """The numbers nearest to 0 .. 15 steps above the least one, which and whose steps are bf16."""
    least = group.min().bfloat16().float()
    step = ((group.max() - least) / 15).bfloat16().float()
    steps = ((group - least) * torch.where(step > 0, 1 / step, 0) + 0.5).floor().clamp(0, 15)
    return steps.double() * step.double() + least.double()


def in_eight_bits(group: Tensor) -> Tensor:
    largest = group.abs().max()
    inverse = torch.where(largest > 0, 127 / largest, 0)
    return (group * inverse).round().double() * (largest / 127).double()


def grouped(rows_MK: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """Each group of 32 numbers of a row by itself; the last one may be shorter."""
    return torch.stack([torch.cat([rounded(group) for group in row.split(32)]) for row in rows_MK])


def as_rows(x_MK: Tensor, weights: Weights) -> Tensor:
    """The fp64 rows that the product sees."""
    if weights == "fp32":
        return x_MK.double()
    if weights == "bf16":
        return x_MK.bfloat16().double()
    if weights != "int8":
        return grouped(x_MK, in_eight_bits)
    steps = 127 * 256
    largest_M1 = x_MK.abs().amax(1, keepdim=True)
    inverse_M1 = torch.where(largest_M1 > 0, steps / largest_M1, torch.zeros_like(largest_M1))
    return (x_MK * inverse_M1).round().double() * (largest_M1 / steps).double()


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_products_are_those_of_the_rounded_numbers(
    library: ctypes.CDLL, weights: Weights, n: int, k: int
) -> None:
    torch.manual_seed(n * k)
    weight_NK, x_MK = torch.randn(n, k), torch.randn(30, k)  # 30 rows: several tiles
    found = product(library, packed(library, weight_NK, weights), x_MK)
    expected = as_rows(x_MK, weights) @ as_multiplied(weight_NK, weights).T
    assert (found.double() - expected).abs().max() < 2e-6 * k**0.5 * (1 + expected.abs().max())


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int8-dynamic"])
def test_small_integers_are_multiplied_exactly(library: ctypes.CDLL, weights: Weights) -> None:
    """Every int8 weight there is, both signs, in each place of a group."""
    weight_NK = torch.arange(-127, 128).repeat(40)[: 34 * 260].view(34, 260).float()
    weight_NK[:, 0] = 127  # the scale of each output is one
    x_MK = torch.randint(-3, 4, (13, 260)).float()
    x_MK[:, 1::32] = 127 if weights.startswith("int8") else 2  # the scale of each group is a power of two
    expected = x_MK.double() @ weight_NK.double().T
    assert torch.equal(product(library, packed(library, weight_NK, weights), x_MK).double(), expected)


def test_four_bits_hold_sixteen_numbers_exactly_in_each_group(library: ctypes.CDLL) -> None:
    """Every number there is in each place of a group, under scales and least numbers of their own."""
    numbers_NK = (torch.arange(40)[:, None] + torch.arange(130)) % 16
    step_NG, least_NG = 2.0 ** torch.randint(-3, 3, (40, 5)), torch.randint(-60, 60, (40, 5)).float()
    group_K = torch.arange(130) // 32
    weight_NK = numbers_NK * step_NG[:, group_K] + least_NG[:, group_K]
    # the last group has two numbers only: the least and the largest of them are 0 and 15 there
    weight_NK[:, 128:] = least_NG[:, 4:] + torch.tensor([0, 15]) * step_NG[:, 4:]
    x_MK = torch.randint(-127, 128, (13, 130)).float()
    x_MK[:, ::32] = 127
    expected = x_MK.double() @ weight_NK.double().T
    assert torch.equal(product(library, packed(library, weight_NK, "int4"), x_MK).double(), expected)


def test_sums_of_a_group_have_room_for_the_largest_numbers(library: ctypes.CDLL) -> None:
    """The largest bytes of both sides in all places: narrower sums than 32 bits would wrap."""
    for sign in (1.0, -1.0):
        weight_NK, x_MK = torch.full((32, 64), 30.0), torch.full((2, 64), sign * 127)
        weight_NK[:, ::32] = 0  # the least number: all others are 15 steps above it
        expected = x_MK.double() @ weight_NK.double().T
        assert torch.equal(product(library, packed(library, weight_NK, "int4"), x_MK).double(), expected)
        weight_NK[:, ::32] = -30
        found = product(library, packed(library, weight_NK, "int8-dynamic"), x_MK)
        assert (found / (x_MK @ weight_NK.T) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("k", [520, 521, 1536, 5000])
def test_sums_of_a_whole_row_have_room_for_the_largest_numbers(library: ctypes.CDLL, k: int) -> None:
    """Where rows are not taken apart, longer ones are rounded to fewer bits."""
    for sign in (1.0, -1.0):
        weight_NK, x_MK = torch.full((32, k), 3.0), torch.full((2, k), sign * 5)
        found = product(library, packed(library, weight_NK, "int8"), x_MK)
        assert (found / (x_MK @ weight_NK.T) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
def test_a_row_has_the_same_bits_among_any_others(library: ctypes.CDLL, weights: Weights) -> None:
    torch.manual_seed(0)
    stack, x_MK = packed(library, torch.randn(70, 90), weights), torch.randn(27, 90)
    together = product(library, stack, x_MK)
    for n_rows in range(1, 27):
        assert torch.equal(product(library, stack, x_MK[:n_rows]), together[:n_rows])


def test_each_matrix_of_a_stack_is_packed_like_one_alone(library: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    stack_MNK = torch.randn(3, 40, 20)
    for weights in ALL_WEIGHTS:
        stack = packed(library, stack_MNK, weights)
        for i in range(3):
            alone = packed(library, stack_MNK[i], weights)
            assert torch.equal(stack.data[i * stack.bytes_each : (i + 1) * stack.bytes_each], alone.data)
            for many, one in ((stack.scales, alone.scales), (stack.starts, alone.starts)):
                assert (many is None) == (one is None)
                assert many is None or one is None or torch.equal(many[i], one[0])


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (32, 4), (33, 5), (100, 70)])
def test_a_packed_matrix_is_as_large_as_its_numbers_and_their_padding(
    library: ctypes.CDLL, n: int, k: int, weights: Weights
) -> None:
    stack = packed(library, torch.zeros(n, k), weights)
    groups, strips = -(-k // GROUP[weights]), -(-n // STRIP)
    bits = {"fp32": 32, "bf16": 16, "int8": 8, "int8-dynamic": 8, "int4": 4 + 32 / GROUP["int4"]}[weights]
    assert GROUP_BYTES[weights] == GROUP[weights] * bits / 8
    assert stack.data.numel() == stack.bytes_each == groups * strips * STRIP * GROUP_BYTES[weights]
    assert stack.data.data_ptr() % 64 == 0


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
def test_rows_of_bf16_are_packed_like_the_same_numbers_in_fp32(
    library: ctypes.CDLL, weights: Weights
) -> None:
    torch.manual_seed(0)
    weight_NK = torch.randn(40, 37).bfloat16()
    narrow, wide = packed(library, weight_NK, weights), packed(library, weight_NK.float(), weights)
    assert torch.equal(narrow.data, wide.data)
    strided = packed(library, torch.randn(37, 40).bfloat16().copy_(weight_NK.T).T, weights)
    assert torch.equal(strided.data, wide.data)


def test_scales_reach_from_the_smallest_rows_to_the_largest(library: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    weight_NK = torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None]
    weight_NK[7] = 0
    stack = packed(library, weight_NK, "int8")
    numbers, scale_N = quantised(weight_NK)
    assert stack.scales is not None and stack.starts is not None
    assert torch.equal(stack.scales[0, :50], scale_N) and (stack.scales[0, 50:] == 0).all()
    assert torch.equal(stack.starts[0, :50], -128 * numbers.sum(1).int())
    assert stack.data.view(torch.int8).abs().max() == 127


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_number_that_is_none_reaches_the_outputs(library: ctypes.CDLL, bad: float) -> None:
    """Quantised rows have no way to say NaN but their scale."""
    x_MK = torch.ones(2, 20)
    x_MK[1, 3] = bad
    for weights in ALL_WEIGHTS:
        found = product(library, packed(library, torch.ones(5, 20), weights), x_MK)
        assert found[0].isfinite().all() and not found[1].isfinite().any()


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
def test_gate_and_up_take_turns_of_16_rows(library: ctypes.CDLL, weights: Weights) -> None:
    torch.manual_seed(0)
    gate_FD, up_FD, x_MD = torch.randn(20, 12), torch.randn(20, 12), torch.randn(3, 12)
    found = product(library, packed(library, gate_FD, weights, interleaved=up_FD), x_MD).view(3, 2, 2, 16)
    for half, weight_FD in enumerate((gate_FD, up_FD)):
        alone = product(library, packed(library, weight_FD, weights), x_MD)
        assert torch.equal(found[:, :, half].reshape(3, 32)[:, :20], alone)
        assert (found[:, 1, half, 4:] == 0).all()


@pytest.mark.long
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_other_processors_compute_the_same_products(
    library: ctypes.CDLL, processor: str, tmp_path: Path
) -> None:
    """The forms written for processors without AVX-512, which this machine can run as well."""
    if platform.machine() != "x86_64":
        pytest.skip("expected: NO OTHER PROCESSOR TO COMPILE FOR HERE: the flags are x86-64's")
    flags = [flag if flag != "-march=native" else f"-march={processor}" for flag in native.FLAGS]
    sources = sorted(map(str, (native.SOURCES / "serving").glob("*.cpp")))
    command = ["g++", *flags, "-I", str(native.SOURCES), *sources, "-o", str(tmp_path / "other.so")]
    subprocess.run(command, check=True, timeout=300)
    other = ctypes.CDLL(str(tmp_path / "other.so"))
    tables.check(other)
    torch.manual_seed(0)
    weight_NK, x_MK = torch.randn(70, 90), torch.randn(27, 90)
    for weights in ALL_WEIGHTS:
        here = product(library, packed(library, weight_NK, weights), x_MK)
        there = product(other, packed(other, weight_NK, weights), x_MK)
        # Without fused multiply-add a number of a quantised row may round to the step beside.
        step = {"int8": 1e-3, "int8-dynamic": 0.1, "int4": 0.1}.get(weights, 1e-4)
        assert (here - there).abs().max() < step
        assert torch.equal(product(other, packed(other, weight_NK, weights), x_MK[:5]), there[:5])
