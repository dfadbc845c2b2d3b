"""Canonical form of a configuration: equal for all spellings that give the same outputs.

Two configurations with the same canonical form compute the same outputs from the same weights. The name, fields of
training only, and unused fields are left out. Does not import torch.
"""

from __future__ import annotations

from typing import Any

from model.config import ModelConfig, MoEConfig, RopeScaling

_ROPE_FIELDS = {
    "linear": ("kind", "factor"),
    "dynamic": ("kind", "factor", "original_context"),
    "llama3": ("kind", "factor", "original_context", "low_frequency_factor", "high_frequency_factor"),
}
_TRAINING_ONLY = ("capacity_factor", "switch_loss", "sequence_loss", "z_loss")


def meaning(config: ModelConfig) -> dict[str, Any]:
    """The canonical form as flat fields such as `moe.top_k`; equal dicts mean equal models."""
    said = config.to_dict()
    layers = range(config.n_layers)
    sparse = tuple(layer for layer in layers if config.is_moe_layer(layer))
    for field in ("name", "n_ahead", "first_moe_layer", "dense_layers", "full_attention_layers"):
        del said[field]
    said["moe layers"] = sparse
    said["sliding_window"] = tuple(config.window(layer) for layer in layers)
    said["attention_owners"] = tuple(config.attention_owner(layer) for layer in layers)
    said["ffn_owners"] = tuple(config.ffn_owner(layer) for layer in layers)
    said["moe"] = _experts(config.moe) if config.moe is not None and sparse else None
    said["rope_scaling"] = _rope(config.rope_scaling)
    if len(sparse) == config.n_layers:
        said["d_ff"] = said["ffn_bias"] = None
    if config.latent is not None:
        said["n_kv_heads"] = said["d_head"] = None
    return _flat(said)


def differences(one: ModelConfig, other: ModelConfig) -> list[str]:
    """The fields in which two configurations mean different models, each as `field = value`, of the first."""
    mine, yours = meaning(one), meaning(other)
    names = [name for name in {**mine, **yours} if mine.get(name) != yours.get(name)]
    return [f"{name} = {mine.get(name)!r}" for name in names]


def _experts(moe: MoEConfig) -> dict[str, Any]:
    said = {name: value for name, value in moe.__dict__.items() if name not in _TRAINING_ONLY}
    del said["n_shared"], said["shared_width"]
    said["d_shared"] = moe.d_shared
    if moe.top_groups == moe.n_groups:  # all groups are allowed: no limit
        said["n_groups"] = said["top_groups"] = 1
        said["group_score"] = None
    return said


def _rope(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    fields = _ROPE_FIELDS.get(scaling.kind)
    unused = ("low_frequency_factor", "high_frequency_factor")
    return {
        name: value
        for name, value in scaling.__dict__.items()
        if (name in fields if fields is not None else name not in unused)
    }


def _flat(said: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
