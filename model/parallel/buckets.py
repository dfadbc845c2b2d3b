"""Group tensors into buckets that are sent or cast together.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BUCKET_ELEMENTS = 2**23


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of one dtype up to BUCKET_ELEMENTS; larger tensors are alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > BUCKET_ELEMENTS
        if bucket and (full or tensor.dtype is not bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
