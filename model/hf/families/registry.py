"""Registry of the model families that can be read and written. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from model.config import ModelConfig
from model.hf.config.fields import Theirs
from model.hf.errors import UnsupportedByFamily, UnsupportedModel
from model.hf.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from model.hf.families.family import Family
from model.hf.families.llama import LLAMA
from model.hf.families.mixtral import MIXTRAL
from model.hf.families.olmoe import OLMOE
from model.hf.families.qwen import QWEN2_MOE, QWEN3_MOE

FAMILIES: Final[dict[str, Family]] = {
    family.model_type: family
    for family in (LLAMA, MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, DEEPSEEK_V2, DEEPSEEK_V3)
}

_UNSHARE: Final = (
    "Export it with --unshare (in Python: model.layers.sharing.unshare), which gives each layer its own copy"
)


def family_named(model_type: object) -> Family:
    """Find a family. Raises UnsupportedModel for a model type that is not in `FAMILIES`."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModel(f"model_type = {model_type!r} is not supported: only {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def read_config(theirs: Theirs, name: str) -> tuple[Family, ModelConfig]:
    """The family of a parsed `config.json` and its model, called `name`. Raises UnsupportedModel."""
    family = family_named(theirs.get("model_type"))
    return family, family.read_config(theirs, name)


def write_config(config: ModelConfig, model_type: str | None = None) -> tuple[Family, dict[str, Any]]:
    """The fields of a `config.json` for `config`, in the named family, else in the first that can represent it.

    Raises UnsupportedModel with the reasons of the nearest families.
    """
    refused = f"{config.name} cannot be written for transformers"
    if config.shares_weights:
        write_config(dataclasses.replace(config, attention_owners=(), ffn_owners=()), model_type)
        raise UnsupportedModel(f"{refused} as it is: its layers share weights. {_UNSHARE}")
    refusals: list[UnsupportedByFamily] = []
    for family in FAMILIES.values() if model_type is None else (family_named(model_type),):
        try:
            return family, family.write_config(config)
        except UnsupportedByFamily as refusal:
            refusals.append(refusal)
    reasons = "; ".join(map(str, _nearest(refusals)))
    others = (
        ""
        if model_type is not None
        else ". These families are nearest; --family NAME gives the reasons of another one"
    )
    raise UnsupportedModel(f"{refused}. {reasons}{others}")


def _nearest(refusals: list[UnsupportedByFamily]) -> list[UnsupportedByFamily]:
    """Refusals with the fewest reasons, up to the first one with complete reasons, and those with as many."""
    complete = [refusal.n_reasons for refusal in refusals if refusal.is_complete]
    fewest = min(complete or [refusal.n_reasons for refusal in refusals])
    nearer = [refusal for refusal in refusals if refusal.n_reasons < fewest]
    equal = [refusal for refusal in refusals if refusal.n_reasons == fewest]
    return sorted(nearer, key=lambda refusal: refusal.n_reasons) + [
        refusal for refusal in equal if refusal.is_complete or not complete
    ]
