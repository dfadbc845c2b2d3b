"""Routers and whole MoE blocks against the modules of `transformers`: DeepSeek-V2/V3, Qwen2/3-MoE, Mixtral, OLMoE.

Weights are random and wide, DeepSeek-V3's correction bias is not zero, and half of it is negative.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import MoEConfig
from model.layers.moe.layer import MoELayer
from model.layers.moe.router import Router

D_MODEL, D_EXPERT, N_EXPERTS = 32, 16, 12
COMMON = {"hidden_size": D_MODEL, "moe_intermediate_size": D_EXPERT, "hidden_act": "silu"}
OURS = {"d_model": D_MODEL, "d_expert": D_EXPERT, "n_experts": N_EXPERTS}

# name: class of transformers' router, its configuration class and arguments, ours
ROUTERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "deepseek_v2 greedy": (
        "deepseek_v2.DeepseekV2TopkRouter",
        "DeepseekV2Config",
        {"n_routed_experts": N_EXPERTS, "num_experts_per_tok": 4, "topk_method": "greedy"}
        | {"routed_scaling_factor": 2.5},
        {"top_k": 4, "normalise_top_k": False, "routed_scale": 2.5},
    ),
    "deepseek_v2 group-limited": (
        "deepseek_v2.DeepseekV2TopkRouter",
        "DeepseekV2Config",
        {"n_routed_experts": N_EXPERTS, "num_experts_per_tok": 5, "topk_method": "group_limited_greedy"}
        | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0},
        {"top_k": 5, "normalise_top_k": False, "routed_scale": 16.0, "n_groups": 4, "top_groups": 2},
    ),
    "deepseek_v3": (
        "deepseek_v3.DeepseekV3TopkRouter",
        "DeepseekV3Config",
        {"n_routed_experts": N_EXPERTS, "num_experts_per_tok": 5, "n_group": 3, "topk_group": 2}
        | {"norm_topk_prob": True, "routed_scaling_factor": 2.5},
        {"top_k": 5, "n_groups": 3, "top_groups": 2, "routed_scale": 2.5},
    ),
    "deepseek_v3 plain weights": (
        "deepseek_v3.DeepseekV3TopkRouter",
        "DeepseekV3Config",
        {"n_routed_experts": N_EXPERTS, "num_experts_per_tok": 3, "n_group": 6, "topk_group": 3}
        | {"norm_topk_prob": False, "routed_scaling_factor": 1.0},
        {"top_k": 3, "normalise_top_k": False, "n_groups": 6, "top_groups": 3},
    ),
    "qwen2_moe": (
        "qwen2_moe.Qwen2MoeTopKRouter",
        "Qwen2MoeConfig",
        {"num_experts": N_EXPERTS, "num_experts_per_tok": 3, "norm_topk_prob": False},
        {"top_k": 3, "normalise_top_k": False},
    ),
    "qwen3_moe": (
        "qwen3_moe.Qwen3MoeTopKRouter",
        "Qwen3MoeConfig",
        {"num_experts": N_EXPERTS, "num_experts_per_tok": 4, "norm_topk_prob": True},
        {"top_k": 4},
    ),
    "mixtral": (
        "mixtral.MixtralTopKRouter",
        "MixtralConfig",
        {"num_local_experts": N_EXPERTS, "num_experts_per_tok": 2},
        {"top_k": 2},
    ),
    "olmoe": (
        "olmoe.OlmoeTopKRouter",
        "OlmoeConfig",
        {"num_experts": N_EXPERTS, "num_experts_per_tok": 5, "norm_topk_prob": False},
        {"top_k": 5, "normalise_top_k": False},
    ),
}


def reference(path: str, config_class: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """A module of `transformers` with normal weights of standard deviation 0.5, and biases of 0.15."""
    family, name = path.split(".")
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = getattr(importlib.import_module("transformers"), config_class)(**COMMON | arguments)
    config._experts_implementation = "eager"
    module: nn.Module = getattr(modeling, name)(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.5, generator=rng)
        for bias in module.buffers():
            bias.normal_(std=0.15, generator=rng)
    return module


def our_config(family: str, changes: dict[str, Any]) -> MoEConfig:
    if family.startswith("deepseek_v3"):
        changes = changes | {"gate": "sigmoid", "group_score": "top2", "bias_balancing": True}
    return MoEConfig(**OURS | changes)


def dense(weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
    """[T, E]: the order among a token's experts is not part of the answer."""
    return torch.zeros(len(weights_TK), N_EXPERTS).scatter(1, experts_TK, weights_TK)


@pytest.mark.parametrize("family", ROUTERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_routers_equal_those_of_transformers(family: str, seed: int) -> None:
    path, config_class, arguments, changes = ROUTERS[family]
    theirs = reference(path, config_class, arguments, seed)
    ours = Router(our_config(family, changes))
    state = dict(theirs.state_dict())
    if "e_score_correction_bias" in state:
        state["bias"] = state.pop("e_score_correction_bias")
        assert (state["bias"] < 0).any() and (state["bias"] > 0).any()
    ours.load_state_dict(state)
    x = torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(seed + 10))
    with torch.no_grad():
        logits, their_weights, their_experts = theirs(x)
        (weights, experts), scores = ours(x, return_scores=True)
    assert torch.equal(experts.sort(-1).values, their_experts.sort(-1).values)
    assert torch.equal(scores.logits_TE, logits)
    torch.testing.assert_close(
        dense(weights, experts), dense(their_weights, their_experts), rtol=1e-6, atol=0
    )
    assert len(experts.unique()) == N_EXPERTS  # the choice is not trivial


BLOCKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "deepseek_v2 group-limited": ("DeepseekV2Moe", {"n_shared_experts": 2}, {"n_shared": 2}),
    "deepseek_v3": ("DeepseekV3MoE", {"n_shared_experts": 1}, {"n_shared": 1}),
    "qwen2_moe": (
        "Qwen2MoeSparseMoeBlock",
        {"shared_expert_intermediate_size": 40},
        {"n_shared": 1, "shared_width": 40, "gate_shared": True},
    ),
    "mixtral": ("MixtralSparseMoeBlock", {"intermediate_size": D_EXPERT}, {}),
}
NAMES = {
    "gate.weight": "router.weight",
    "gate.e_score_correction_bias": "router.bias",
    "experts.down_proj": "experts.w_down",
    "shared_expert_gate.weight": "shared_gate",
}
SHARED = {"gate_proj": "w_gate", "up_proj": "w_up", "down_proj": "w_down"}


def our_state(theirs: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        if name == "experts.gate_up_proj":
            state["experts.w_gate"], state["experts.w_up"] = tensor.split(D_EXPERT, dim=1)
        elif name in NAMES:
            state[NAMES[name]] = tensor
        else:  # shared_expert(s).up_proj.weight
            state[f"shared.{SHARED[name.split('.')[1]]}"] = tensor
    return state


@pytest.mark.parametrize("family", BLOCKS)
def test_moe_blocks_equal_those_of_transformers(family: str) -> None:
    path, config_class, arguments, changes = ROUTERS[family]
    block, more_arguments, more_changes = BLOCKS[family]
    theirs = reference(f"{path.split('.')[0]}.{block}", config_class, arguments | more_arguments, 3).eval()
    layer = MoELayer(our_config(family, changes | more_changes)).eval()
    layer.load_state_dict(our_state(theirs))
    x = torch.randn(3, 7, D_MODEL, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected, y = theirs(x), layer(x)
    assert expected.abs().mean() > 0.5
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
