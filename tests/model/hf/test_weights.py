"""That the comparisons with transformers would notice: every weight and every field moves the logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import hf
from model.config import ModelConfig, RopeScaling
from model.hf import FAMILIES
from model.hf.tensors import our_shapes, put_together, slots, take_apart
from tests.model.hf.hf_models import FIELDS, build, tokens

pytestmark = pytest.mark.slow

NOTICED = 1e-3  # a hundred times what the comparisons allow

# Each family's optional weights, too.
ALL_WEIGHTS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mixtral": {},
    "qwen2_moe": {"mlp_only_layers": [1]},
    "qwen3_moe": {"attention_bias": True, "mlp_only_layers": [1]},
    "olmoe": {"attention_bias": True},
    "deepseek_v2": {"attention_bias": True, "q_lora_rank": None},
    "deepseek_v3": {"attention_bias": True},
}


def load(model_type: str, folder: Path, **fields: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    build(model_type, seed=5, **fields).save_pretrained(folder)
    return hf.load(folder)


@torch.no_grad()
def logits(config: ModelConfig, state: dict[str, Tensor]) -> Tensor:
    return hf.to_transformer(config, state)(tokens(5))


@pytest.mark.parametrize("model_type", FIELDS)
def test_every_weight_moves_the_logits(model_type: str, tmp_path: Path) -> None:
    config, state = load(model_type, tmp_path, **ALL_WEIGHTS[model_type])
    before = logits(config, state)
    unused = set(FAMILIES[model_type].names) - {".".join(name.split(".")[2:]) for name in state}
    assert unused <= {
        "attention.w_q",
        "attention.w_q_down",
        "attention.b_q_down",
        "attention.q_norm.weight",
        "attention.w_q_up",
    }
    for name, tensor in state.items():
        changed = {**state, name: tensor.roll(1, dims=0) if tensor.shape[0] > 1 else -tensor}
        assert (logits(config, changed) - before).abs().max() > NOTICED, name


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"norm_eps": 1e-2}),
    ("llama", {"rope_theta": 5000.0}),
    ("llama", {"rope_scaling": RopeScaling("linear", 1.5, 64)}),
    ("llama", {"rope_interleaved": True}),
    ("mixtral", {"sliding_window": 6}),
    ("mixtral", {"moe.top_k": 2}),
    ("mixtral", {"moe.normalise_top_k": False}),
    ("olmoe", {"qkv_clip": 1.0}),
    ("olmoe", {"moe.normalise_top_k": True}),
    ("deepseek_v2", {"moe.routed_scale": 1.1}),
    ("deepseek_v2", {"moe.top_groups": 1}),
    ("deepseek_v3", {"moe.group_score": "max"}),
    ("deepseek_v3", {"moe.n_groups": 2, "moe.top_groups": 1}),
    ("deepseek_v3", {"moe.normalise_top_k": False}),
    ("deepseek_v3", {"rope_interleaved": False}),
]


@pytest.mark.parametrize(("model_type", "fields"), WRONG)
def test_a_wrong_field_moves_the_logits(model_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    config, state = load(model_type, tmp_path)
    moe = config.moe
    inner = {name.removeprefix("moe."): value for name, value in fields.items() if name.startswith("moe.")}
    if moe is not None:
        moe = dataclasses.replace(moe, **inner)
    outer = {name: value for name, value in fields.items() if not name.startswith("moe.")}
    wrong = dataclasses.replace(config, moe=moe, **outer)
    assert (logits(wrong, state) - logits(config, state)).abs().max() > NOTICED


@pytest.mark.parametrize("model_type", FIELDS)
def test_names_are_theirs_and_stacks_are_taken_apart_and_put_together(
    model_type: str, tmp_path: Path
) -> None:
    config, state = load(model_type, tmp_path)
    family = FAMILIES[model_type]
    apart = take_apart(family, state)
    again = put_together(family, our_shapes(config), sorted(apart.items(), reverse=True))
    assert list(again) == list(state)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    places = slots(family, our_shapes(config))
    assert list(places) == list(apart)
    if config.moe is not None:
        n_moe = config.n_moe_layers
        experts = [slot for slot in places.values() if slot.expert is not None]
        assert len(experts) == 3 * config.moe.n_experts * n_moe
        stack = state[f"layers.{config.n_layers - 1}.ffn.experts.w_down"]
        assert stack.shape == (config.moe.n_experts, config.d_model, config.moe.d_expert)
        # Experts are written from where they lie: no second copy of the model's bulk.
        views = [tensor for name, tensor in apart.items() if places[name].ours.endswith("experts.w_down")]
        stacks = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
        assert all(view.untyped_storage().data_ptr() in stacks for view in views)
