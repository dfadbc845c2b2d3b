"""Every family, saved by transformers and read by us, gives the same logits, and so it does the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model import hf
from model.smollm2.convert import GGUFModel
from tests.model.hf.hf_models import (
    FIELDS,
    N_TOKENS,
    assert_same_both_ways,
    build,
    load_theirs,
    random_fields,
)

pytestmark = pytest.mark.slow

SEED = 3  # with 1 a router stands between two experts, 2e-8 apart, and rounding decides
WINDOW = 5  # shorter than the prompt
assert WINDOW < 9 < N_TOKENS

VARIATIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 14}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    ("mixtral", {}),
    ("mixtral", {"sliding_window": WINDOW, "num_local_experts": 5, "num_experts_per_tok": 1}),
    ("qwen2_moe", {}),
    ("qwen2_moe", {"mlp_only_layers": [2], "decoder_sparse_step": 2, "num_hidden_layers": 4}),
    ("qwen2_moe", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    ("qwen2_moe", {"qkv_bias": False, "norm_topk_prob": True, "tie_word_embeddings": True}),
    ("qwen3_moe", {}),
    ("qwen3_moe", {"attention_bias": True, "mlp_only_layers": [0], "norm_topk_prob": False}),
    ("qwen3_moe", {"use_sliding_window": True, "sliding_window": WINDOW, "tie_word_embeddings": True}),
    ("olmoe", {}),
    ("olmoe", {"clip_qkv": 0.7, "norm_topk_prob": True, "attention_bias": True}),
    ("deepseek_v2", {}),
    ("deepseek_v2", {"topk_method": "greedy", "q_lora_rank": None, "first_k_dense_replace": 0}),
    ("deepseek_v2", {"routed_scaling_factor": 2.5, "attention_bias": True, "tie_word_embeddings": True}),
    ("deepseek_v3", {}),
    ("deepseek_v3", {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "attention_bias": True}),
    ("deepseek_v3", {"n_group": 2, "topk_group": 1, "norm_topk_prob": False, "rope_interleave": False}),
    ("deepseek_v3", {"n_routed_experts": 15, "n_group": 5, "topk_group": 3, "tie_word_embeddings": True}),
]


def _id(variation: tuple[str, dict[str, Any]]) -> str:
    model_type, fields = variation
    return "-".join([model_type, *fields])


@pytest.mark.parametrize(("model_type", "fields"), VARIATIONS, ids=map(_id, VARIATIONS))
def test_logits_agree_both_ways(model_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    assert_same_both_ways(build(model_type, seed=SEED, **fields), tmp_path, seed=SEED)


@pytest.mark.parametrize("model_type", FIELDS)
def test_a_random_variation_agrees(model_type: str, tmp_path: Path) -> None:
    model = build(model_type, seed=2, **random_fields(model_type, 0))
    assert_same_both_ways(model, tmp_path, seed=2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 13))
@pytest.mark.parametrize("model_type", FIELDS)
def test_many_random_variations_agree(model_type: str, seed: int, tmp_path: Path) -> None:
    model = build(model_type, seed=seed, **random_fields(model_type, seed))
    assert_same_both_ways(model, tmp_path, seed=seed)


@pytest.mark.long
def test_smollm2_gives_the_same_logits_in_transformers(smollm2_gguf: Path, tmp_path: Path) -> None:
    """Real weights of a real size, from our conversion of GGUF through our Llama folder."""
    source = GGUFModel(smollm2_gguf)
    config, state = source.config, source.dense_state()
    hf.save(tmp_path / "smollm2", config, state)
    ids = source.tokenizer().encode("The capital of France is Paris, and that of Italy is").ids
    tokens_BS = torch.tensor([ids])
    with torch.no_grad():
        ours = hf.to_transformer(config, state)(tokens_BS)
        theirs = load_theirs(tmp_path / "smollm2")(tokens_BS).logits
    assert source.tokenizer().decode([int(theirs[0, -1].argmax())]) == " Rome"
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
