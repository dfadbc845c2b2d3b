"""Metrics of a model's MoE layers in training: expert load, its entropy, drops, router logits and losses.

Call `watch(model)` once, then `collect(model)` for figures. Recording costs one count of the choices and one
sum of squares per layer and pass; only `collect` waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from model.layers.moe.auxiliary_losses import LOSSES, loss_weights
from model.layers.moe.layer import MoELayer, moe_layers
from model.layers.moe.meter import N_SUMS


@dataclass(frozen=True)
class ExpertMetrics:
    """Metrics of one layer over the passes since the last `collect`; `dataclasses.asdict` makes them JSON."""

    load: list[int]  # (token, choice) pairs per expert, dropped ones included
    load_entropy: float  # of the load, over that of an even one: 1 is even, 0 is one expert alone
    max_over_mean_load: float  # 1 is even, E / K the worst
    dropped_share: float  # of all pairs
    logit_rms: float  # root mean square of the router's logits
    losses: dict[str, float]  # mean over passes of each auxiliary loss that has a weight, itself unweighted
    n_tokens: int


def watch(model: nn.Module, *, on: bool = True) -> None:
    """Switch the recording of all MoE layers on or off and drop recorded figures."""
    for layer in moe_layers(model).values():
        layer.meter.is_on = on
        layer.meter.reset()


def collect(model: nn.Module, *, group: dist.ProcessGroup | None = None) -> dict[str, ExpertMetrics]:
    """Return the metrics of each MoE layer by module name, and reset them; layers without a pass are left out.

    With `group` they are summed over its ranks, which must all call and hold the same layers; without, they are this
    rank's. Raises RuntimeError where the model has MoE layers and none is watched.
    """
    layers = moe_layers(model)
    watched = {name: layer for name, layer in layers.items() if layer.meter.is_on}
    if layers and not watched:
        raise RuntimeError("no MoE layer is watched: call metrics.watch(model) before training")
    if not watched:
        return {}
    read = _read(list(watched.values()), group)
    for layer in watched.values():
        layer.meter.reset()
    return {
        name: _metrics(layer, counts, sums)
        for (name, layer), counts, sums in zip(watched.items(), *read, strict=True)
        if counts[-1]  # passes
    }


def _read(
    layers: list[MoELayer], group: dist.ProcessGroup | None
) -> tuple[list[list[int]], list[list[float]]]:
    """Read each layer's counts and sums as packed by its meter, summed over the group; one transfer for each kind."""
    device = layers[0].router.weight.device
    counts = torch.cat([layer.meter.counts(device) for layer in layers])
    sums = torch.cat([layer.meter.sums(device) for layer in layers])
    if group is not None:
        dist.all_reduce(counts, group=group)
        dist.all_reduce(sums, group=group)
    sizes = [layer.meter.n_counts for layer in layers]
    count_parts, sum_parts = torch.split(counts.cpu(), sizes), torch.split(sums.cpu(), N_SUMS)
    return [part.tolist() for part in count_parts], [part.tolist() for part in sum_parts]


def _metrics(layer: MoELayer, counts: list[int], sums: list[float]) -> ExpertMetrics:
    *load, n_tokens, n_dropped, n_passes = counts
    squares, *losses = sums
    n_pairs, n_experts = max(sum(load), 1), len(load)
    weights = loss_weights(layer.config)
    return ExpertMetrics(
        load=load,
        load_entropy=_load_entropy(load),
        max_over_mean_load=max(load) * n_experts / n_pairs,
        dropped_share=n_dropped / n_pairs,
        logit_rms=math.sqrt(squares / max(n_tokens * n_experts, 1)),
        losses={name: loss / n_passes for name, loss in zip(LOSSES, losses, strict=True) if name in weights},
        n_tokens=n_tokens,
    )


def _load_entropy(load: list[int]) -> float:
    """Entropy of the load over that of an even one; 1 with one expert or without load."""
    total = sum(load)
    if total == 0 or len(load) == 1:
        return 1.0
    shares = [count / total for count in load if count]
    return -sum(share * math.log(share) for share in shares) / math.log(len(load))
