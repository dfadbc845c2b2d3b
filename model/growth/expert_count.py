"""Grow the number of experts by copying experts, with the same outputs.

- duplicated: each expert n times, with its router row; a token takes all copies of what it took before.
- split: each expert's neurons in n parts, which share its router row (He et al. 2024, arXiv:2410.07524); total and
  active sizes stay the same.

Either way a token takes n times as many experts. Why it is exact: equal router rows make equal scores, so a choice of
n * k takes whole sets of n; a softmax over n times as many experts gives each a share of 1/n, and so does normalising.
Expects top-k to break ties only between equals, which holds while no two different experts have equal scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig, MoEConfig
from model.growth.derivation import Copied, Growth
from model.growth.names import shapes_of, split


def duplicate_experts(config: ModelConfig, factor: int, *, noise: float = 0.0, seed: int = 0) -> Growth:
    """Duplicate experts: `factor` times as many, and as many active ones. With `noise` copies differ and so do the outputs.

    Copies of a group of experts form their own groups, so that group scores stay the same. Copy c of expert e is expert
    c * E + e where there is one group. Raises ConfigError for a dense parent or a factor below 2.
    """
    moe = _require_experts(config, factor)
    n_groups, per_group = moe.n_groups, moe.n_experts // moe.n_groups
    source_E = torch.arange(moe.n_experts).view(n_groups, 1, per_group).expand(-1, factor, -1).flatten()
    grouped = factor if n_groups > 1 else 1
    child = dataclasses.replace(
        moe,
        n_experts=moe.n_experts * factor,
        top_k=moe.top_k * factor,
        n_groups=n_groups * grouped,
        top_groups=moe.top_groups * grouped,
        # raw sigmoids do not shrink as their number grows
        routed_scale=moe.routed_scale / (1 if _scores_shrink(moe) else factor),
    )

    def pick(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, source_E.to(tensor.device))

    picks = dict.fromkeys(("w_gate", "w_up", "w_down"), pick)
    return _grown(config, child, picks, pick, _bias_factor(moe, factor), noise=noise, seed=seed)


def split_experts(config: ModelConfig, factor: int) -> Growth:
    """Split experts: `factor` times as many, each of a `factor`-th of the width; part s of expert e is e * factor + s.

    Raises ConfigError for a dense parent, a factor below 2 or one that does not divide d_expert, and where groups are
    scored by their two best experts: the best one's parts would count twice.
    """
    moe = _require_experts(config, factor)
    if moe.d_expert % factor:
        raise ConfigError(f"MoEConfig.d_expert ({moe.d_expert}) cannot be split into {factor} equal parts")
    if moe.group_score == "top2" and moe.top_groups < moe.n_groups:
        raise ConfigError(
            "a group's two best experts would be parts of the same expert: splitting needs group_score max"
        )
    width = moe.d_expert // factor
    child = dataclasses.replace(
        moe,
        n_experts=moe.n_experts * factor,
        top_k=moe.top_k * factor,
        d_expert=width,
        shared_width=moe.d_shared if moe.n_shared else None,
        routed_scale=moe.routed_scale * (factor if _scores_shrink(moe) else 1),
    )

    def rows(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(factor, 0)

    def parts_of_first(w_EFD: Tensor) -> Tensor:
        return torch.stack(torch.split(w_EFD, width, 1), dim=1).flatten(0, 1)

    def parts_of_second(w_EDF: Tensor) -> Tensor:
        return torch.stack(torch.split(w_EDF, width, 2), dim=1).flatten(0, 1)

    picks = {"w_gate": parts_of_first, "w_up": parts_of_first, "w_down": parts_of_second}
    return _grown(config, child, picks, rows, _bias_factor(moe, factor), noise=0.0, seed=0)


def _grown(
    config: ModelConfig,
    moe: MoEConfig,
    picks: Mapping[str, Callable[[Tensor], Tensor]],
    rows: Callable[[Tensor], Tensor],
    bias_factor: float,
    *,
    noise: float,
    seed: int,
) -> Growth:
    """`picks` by the leaf of an experts' weight; `rows` makes the router's rows and biases."""
    sources = {}
    for name in shapes_of(config):
        stem, leaf = split(name)
        if stem.endswith(".ffn.experts"):
            sources[name] = Copied(name, picks[leaf], noise=noise)
        elif stem.endswith(".ffn.router"):
            sources[name] = Copied(name, rows, factor=bias_factor if leaf == "bias" else 1.0)
        else:
            sources[name] = Copied(name)
    child = dataclasses.replace(config, name=f"{config.name}-x{moe.n_experts}", moe=moe)
    return Growth(child, sources, preserves=noise == 0, seed=seed)


def _require_experts(config: ModelConfig, factor: int) -> MoEConfig:
    if config.moe is None:
        raise ConfigError(f"{config.name} has no experts yet: upcycle it first")
    if factor < 2:
        raise ConfigError(f"the factor on the number of experts must be at least 2, not {factor}")
    return config.moe


def _scores_shrink(moe: MoEConfig) -> bool:
    """Whether the weights of n times as many equal experts become an n-th."""
    return moe.normalise_top_k or moe.gate == "softmax"


def _bias_factor(moe: MoEConfig, factor: int) -> float:
    """A balancing bias is added to scores for the choice: where scores shrink, it must shrink with them."""
    return 1 / factor if moe.gate == "softmax" else 1.0
