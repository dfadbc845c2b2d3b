"""Pipeline stage whose receive buffers live from a micro-batch's arrival to the end of its backward pass.

torch up to 2.14 keeps one buffer per micro-batch of the whole step and direction, which at 64 micro-batches is more than
all activations in flight. From 2.15 on torch makes a buffer when its receive starts, frees it after use, and raises if
one exists before: its own stage is used then.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch.distributed.pipelining import PipelineStage


class LeanStage(PipelineStage):
    """The stage of torch up to 2.14 with buffers for micro-batches in flight only."""

    def _setup_forward_recv_info(self, num_microbatches: int, has_backward: bool) -> None:
        super()._setup_forward_recv_info(num_microbatches, has_backward)
        for infos in self.args_recv_info.values():
            _drop_buffers(infos)

    def _setup_backward_recv_info(self, num_microbatches: int) -> None:
        super()._setup_backward_recv_info(num_microbatches)
        for infos in self.grad_recv_info.values():
            _drop_buffers(infos)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[Any]:
        _make_buffers(self.args_recv_info[fwd_chunk_id], self.device)
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[Any]:
        if self.has_backward and not self.is_last:
            _make_buffers(self.grad_recv_info[bwd_chunk_id], self.device)
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        done = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        _drop_buffers(self.args_recv_info[bwd_chunk_id])
        _drop_buffers(self.grad_recv_info[bwd_chunk_id])
        return done


_FREES_BUFFERS = find_spec("torch.distributed.pipelining._recv_buffers") is not None  # torch 2.15 and later

#: The stage that pipelines are made of.
PIPELINE_STAGE: type[PipelineStage] = PipelineStage if _FREES_BUFFERS else LeanStage

#: Whether a stage keeps its output until the gradient comes, and not only until it is sent.
KEEPS_OUTPUTS = not _FREES_BUFFERS


def _drop_buffers(infos: Iterable[Any]) -> None:
    for info in infos:
        info.buffer = None


def _make_buffers(infos: Iterable[Any], device: torch.device) -> None:
    for info in infos:
        if not info.is_root_arg and info.tensor_meta is not None:
            info.buffer = info.tensor_meta.to_tensor(device).detach()
