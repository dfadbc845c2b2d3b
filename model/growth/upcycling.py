"""Upcycle a dense model into a Mixture of Experts with the same outputs (sparse upcycling, arXiv:2212.05055).

Three ways, each exact because a token's normalised top-k weights sum to one:

- halves: half of a feed-forward's neurons becomes a shared expert, the other half is copied into every routed one.
- copies: every expert is the whole feed-forward.
- slices: an expert is a slice of the neurons; experts that together are one copy share their router row, so that they
  are chosen together (virtual groups, He et al. 2024, arXiv:2410.07524).

Equal experts become different in training, because their router rows differ. `noise` on the experts' weights makes them
different at once, but is not exact. While the copies are equal, halves and copies give the router no gradient through
the output, and with `top_k` 1 they never do: it then learns from auxiliary losses alone. Slices of a copy differ, so
that their router rows become different as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from model.config import ConfigError, Gate, GroupScore, ModelConfig, MoEConfig
from model.growth.derivation import Copied, Drawn, Growth
from model.growth.names import shapes_of, split


class Routing(TypedDict, total=False):
    """Fields of MoEConfig that the caller may choose, since they do not change the outputs."""

    gate: Gate
    bias_balancing: bool
    n_groups: int
    top_groups: int
    group_score: GroupScore
    switch_loss: float
    sequence_loss: float
    z_loss: float


def upcycle_halves(
    config: ModelConfig,
    *,
    n_experts: int = 7,
    top_k: int = 2,
    noise: float = 0.0,
    seed: int = 0,
    **routing: Unpack[Routing],
) -> Growth:
    """Upcycle by halves: the active feed-forward is (1 + k) / 2 of the dense one.

    Raises ConfigError where d_ff is odd or the parent has experts.
    """
    _require_dense(config)
    half = _equal_parts(config, 2)
    moe = MoEConfig(config.d_model, half, n_experts, top_k, n_shared=1, **routing)

    def shared(neurons: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: tensor.narrow(neurons, 0, half)

    def copies(neurons: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: tensor.narrow(neurons, half, half).expand(n_experts, -1, -1)

    return _upcycled(config, moe, copies, noise=noise, seed=seed, shared=shared)


def upcycle_copies(
    config: ModelConfig,
    *,
    n_experts: int = 8,
    top_k: int = 2,
    noise: float = 0.0,
    seed: int = 0,
    **routing: Unpack[Routing],
) -> Growth:
    """Upcycle by copies: the active feed-forward is k times the dense one. Raises ConfigError if it has experts."""
    _require_dense(config)
    moe = MoEConfig(config.d_model, config.d_ff, n_experts, top_k, **routing)
    return _upcycled(
        config, moe, lambda _: lambda tensor: tensor.expand(n_experts, -1, -1), noise=noise, seed=seed
    )


def upcycle_slices(
    config: ModelConfig,
    *,
    n_copies: int = 4,
    n_slices: int = 4,
    top_k: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    **routing: Unpack[Routing],
) -> Growth:
    """Upcycle by slices: `n_copies * n_slices` fine-grained experts, of which a token takes `top_k` whole copies.

    With `top_k` 1 the active feed-forward is the dense one. Slice s of copy c is expert c * n_slices + s.
    Raises ConfigError where the slices are not equal, a group of experts would split a copy, or the parent has experts.
    """
    _require_dense(config)
    width, n_experts = _equal_parts(config, n_slices), n_copies * n_slices
    moe = MoEConfig(
        config.d_model, width, n_experts, top_k * n_slices, routed_scale=float(n_slices), **routing
    )
    if n_experts // moe.n_groups % n_slices:
        raise ConfigError(
            f"groups of {n_experts // moe.n_groups} experts split copies of {n_slices} slices: choose n_groups so "
            "that n_copies is a multiple of it"
        )

    def sliced(neurons: int) -> Callable[[Tensor], Tensor]:
        def pick(tensor: Tensor) -> Tensor:
            return torch.stack(torch.split(tensor, width, neurons)).repeat(n_copies, 1, 1)

        return pick

    return _upcycled(config, moe, sliced, noise=noise, seed=seed, rows_per_draw=n_slices)


def _upcycled(
    config: ModelConfig,
    moe: MoEConfig,
    routed: Callable[[int], Callable[[Tensor], Tensor]],
    *,
    noise: float,
    seed: int,
    shared: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
    rows_per_draw: int = 1,
) -> Growth:
    """`routed(neurons)` and `shared(neurons)` pick an expert's weights where dimension `neurons` counts them."""
    sources: dict[str, Copied | Drawn] = {}
    for name in shapes_of(config):
        stem, leaf = split(name)
        if not stem.endswith(".ffn"):
            sources[name] = Copied(name)
            continue
        neurons = 1 if leaf == "w_down" else 0
        if shared is not None:
            sources[f"{stem}.shared.{leaf}"] = Copied(name, shared(neurons))
        sources[f"{stem}.experts.{leaf}"] = Copied(name, routed(neurons), noise=noise)
        if leaf == "w_gate":
            sources |= _router(moe, stem, name, rows_per_draw)
    child = dataclasses.replace(config, name=f"{config.name}-moe", moe=moe)
    return Growth(child, sources, preserves=noise == 0, seed=seed)


def _router(moe: MoEConfig, stem: str, like: str, rows_per_draw: int) -> dict[str, Copied | Drawn]:
    """Random rows, each for `rows_per_draw` neighbouring experts."""
    drawn: dict[str, Copied | Drawn] = {}
    shape = (moe.n_experts // rows_per_draw, moe.d_model)
    drawn[f"{stem}.router.weight"] = Drawn(
        shape, moe.d_model**-0.5, like, lambda rows: rows.repeat_interleave(rows_per_draw, 0)
    )
    if moe.bias_balancing:
        drawn[f"{stem}.router.bias"] = Drawn((moe.n_experts,), 0.0, like, is_fp32=True)
    return drawn


def _require_dense(config: ModelConfig) -> None:
    if config.moe is not None:
        raise ConfigError(f"{config.name} already has experts: growth starts from a dense model")
    if config.ffn_bias:
        raise ConfigError(
            f"{config.name} has biases in its feed-forwards (ffn_bias), which experts do not have"
        )


def _equal_parts(config: ModelConfig, n_parts: int) -> int:
    if n_parts < 1 or config.d_ff % n_parts:
        kind = "an odd d_ff" if n_parts == 2 else "a d_ff"
        raise ConfigError(
            f"{config.name} has {kind} ({config.d_ff}): it cannot be cut into {n_parts} equal parts"
        )
    return config.d_ff // n_parts
