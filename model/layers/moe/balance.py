"""Bias balancing of all MoE layers of a model, over all ranks that share its data.

The rule of one bias is the router's (`model/layers/moe/router.py`); here the loads are summed first, so that all ranks
move their biases alike.

Under `DistributedDataParallel` set `broadcast_buffers=False`: it would overwrite each rank's counted load by rank 0's.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from model.layers.moe.layer import moe_layers


@torch.no_grad()
def balance_experts(model: nn.Module, rate: float = 1e-3, *, group: dist.ProcessGroup | None = None) -> None:
    """Make one step of bias balancing in each layer with a bias, over the load counted since the last one.

    Call it once per optimiser step. The loads are summed over `group`: the ranks that hold copies of these layers and
    see different data (a mesh's dp axis), which must all call. None is this rank alone, even with
    torch.distributed: other ranks may have other layers. Copies that are balanced separately drift apart.
    """
    layers = [layer for layer in moe_layers(model).values() if layer.load_E is not None]
    if not layers:
        return
    loads = [layer.load_E for layer in layers if layer.load_E is not None]
    if group is not None:
        summed = torch.cat(loads)
        dist.all_reduce(summed, group=group)
        sizes = [len(load_E) for load_E in loads]
        for load_E, sum_E in zip(loads, torch.split(summed, sizes), strict=True):
            load_E.copy_(sum_E)
    for layer in layers:
        layer.balance(rate)
