"""Marks of tests that need compiled kernels or a CUDA device. A skip says what was not tested."""

import pytest
import torch

from model import native

needs_kernels = pytest.mark.skipif(
    not native.available(), reason=f"NO COMPILED KERNELS HERE: {native.state()}"
)


def needs_cuda(untested: str) -> pytest.MarkDecorator:
    """`untested` says what a machine without a device leaves untested."""
    return pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"expected: NO CUDA DEVICE HERE: {untested}"
    )
