"""A configuration is written so that it is read as it was, or not at all: drawn ones, by every family."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig, MoEConfig
from model.hf import FAMILIES, UnsupportedModel
from model.hf.config.meaning import meaning
from model.hf.families.registry import read_config
from tests.model.hf.test_config import DENSE, LATENT

pytestmark = pytest.mark.slow


@st.composite
def configurations(draw: st.DrawFn) -> ModelConfig:
    n_heads, n_layers = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    n_groups, per_group = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    top_groups = draw(st.integers(1, n_groups))
    n_shared = draw(st.integers(0, 2))
    moe = MoEConfig(
        d_model=8 * n_heads,
        d_expert=4,
        n_experts=n_groups * per_group,
        top_k=draw(st.integers(1, top_groups * per_group)),
        n_shared=n_shared,
        gate=draw(st.sampled_from(["softmax", "sigmoid"])),
        normalise_top_k=draw(st.booleans()),
        bias_balancing=draw(st.booleans()),
        routed_scale=draw(st.sampled_from([1.0, 2.5])),
        shared_width=draw(st.sampled_from([None, 5, 8])) if n_shared else None,
        gate_shared=bool(n_shared) and draw(st.booleans()),
        n_groups=n_groups,
        top_groups=top_groups,
        group_score=draw(st.sampled_from(["max", "top2"])),
    )
    latent = draw(st.sampled_from([None, LATENT]))
    return dataclasses.replace(
        DENSE,
        d_model=8 * n_heads,
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([1, n_heads])),
        d_head=8,
        n_layers=n_layers,
        moe=draw(st.sampled_from([None, moe])),
        first_moe_layer=draw(st.integers(0, n_layers)),
        latent=latent,
        qk_norm="none" if latent else draw(st.sampled_from(["none", "head", "all"])),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        rope_interleaved=draw(st.booleans()),
        sliding_window=draw(st.sampled_from([None, 3])),
        tie_embeddings=draw(st.booleans()),
    )


@settings(deadline=None)  # other processes share the machine
@given(configurations())
def test_a_configuration_is_written_so_that_it_is_read_as_it_was_or_not_at_all(config: ModelConfig) -> None:
    for model_type, family in FAMILIES.items():
        try:
            document = json.loads(json.dumps(family.write_config(config)))
        except UnsupportedModel:
            continue
        assert document["model_type"] == model_type
        read = read_config(document, config.name)[1]
        assert meaning(read) == meaning(config)
        assert _inference_parameters(read) == _inference_parameters(config)


def _inference_parameters(config: ModelConfig) -> tuple[int, int]:
    return config.total_parameters, config.active_parameters
