"""Marks of tests that need compiled kernels or a CUDA device. A skip says what was not tested."""

import pytest
import torch

from model import kernel_ways, native

needs_kernels = pytest.mark.skipif(
    not native.available(), reason=f"NO COMPILED KERNELS HERE: {native.state()}"
)
needs_bf16_pairs = pytest.mark.skipif(
    "avx512_bf16" not in " ".join(kernel_ways.processor()),
    reason="expected: NO PRODUCTS OF BF16 PAIRS HERE: needs AVX512_BF16",
)


def needs_cuda(untested: str) -> pytest.MarkDecorator:
    """`untested` says what a machine without a device leaves untested."""
    return pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"expected: NO CUDA DEVICE HERE: {untested}"
    )
