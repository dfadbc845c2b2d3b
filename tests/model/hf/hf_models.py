"""Tiny random models built with transformers, and the comparison of them with ours, both ways.

All weights are drawn again: transformers starts norms at one and biases at zero, and draws the others so small that a
misplaced one would not show.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from model import hf
from model.hf.config.meaning import differences
from model.serving.engine.cache import SequenceCache
from model.transformer import Transformer

logging.disable_progress_bar()
ATOL = 1e-5
N_TOKENS = 23
PLAIN = {
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}  # their textbook forms, for any size

SHARED_FIELDS: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    # The families' own ids are for other vocabularies.
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_DEEPSEEK: dict[str, Any] = {
    "intermediate_size": 56,
    "moe_intermediate_size": 20,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 72},
    "mixtral": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "intermediate_size": 40,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
    },
    "qwen2_moe": {
        "num_key_value_heads": 2,
        "intermediate_size": 56,
        "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 33,
        "num_experts": 7,
        "num_experts_per_tok": 3,
    },
    "qwen3_moe": {
        "num_key_value_heads": 2,
        "head_dim": 20,
        "intermediate_size": 56,
        "moe_intermediate_size": 20,
        "num_experts": 9,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "olmoe": {"num_key_value_heads": 2, "intermediate_size": 36, "num_experts": 8, "num_experts_per_tok": 3},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    "deepseek_v3": {**_DEEPSEEK, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7},
}


def configuration(model_type: str, **fields: Any) -> Any:
    """A small configuration of transformers."""
    fields = {**SHARED_FIELDS, **FIELDS[model_type], **fields}
    # Some families' own default is for a model of theirs.
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    return AutoConfig.for_model(model_type, **fields)


def build(model_type: str, seed: int = 0, **fields: Any) -> Any:
    """A random fp32 model of transformers in evaluation mode; `fields` override those of its family above."""
    config = configuration(model_type, **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **PLAIN)
    randomise(model, seed)
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():  # shares memory with the model
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            tensor.copy_(1 + 0.3 * noise)
        elif name.endswith("bias"):  # e_score_correction_bias too: as large as differences between scores
            tensor.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            tensor.copy_(0.4 * noise)
        elif name.endswith("mlp.gate.weight"):
            tensor.copy_(2 * tensor.shape[-1] ** -0.5 * noise)
        else:
            scale = 0.7 if "lm_head" in name else 1.2  # logits spread by 0.7: two fp32 models differ by 5e-6
            tensor.copy_(scale * tensor.shape[-1] ** -0.5 * noise)


def tokens(seed: int, n_tokens: int = N_TOKENS, vocab_size: int = SHARED_FIELDS["vocab_size"]) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(vocab_size, (2, n_tokens), generator=generator)


@torch.no_grad()
def their_cached_logits(model: Any, tokens_BS: Tensor, n_prompt: int) -> Tensor:
    """Logits of the first row after its prompt and after each later token, [S - n_prompt + 1, V]."""
    ids = tokens_BS[:1]
    out = model(ids[:, :n_prompt], use_cache=True)
    logits = [out.logits[0, -1]]
    for position in range(n_prompt, ids.shape[1]):
        out = model(ids[:, position : position + 1], cache=out.cache, use_cache=True)
        logits.append(out.logits[0, -1])
    return torch.stack(logits)


def our_cached_logits(model: Transformer, tokens_BS: Tensor, n_prompt: int) -> Tensor:
    """The same with `Transformer.step`."""
    ids = tokens_BS[0].tolist()
    cache = SequenceCache(model.config, model.dtype, model.device)
    logits: list[Tensor] = []
    for start, end in [(0, n_prompt), *((at, at + 1) for at in range(n_prompt, len(ids)))]:
        logits.append(model.step([(cache, ids[start:end])])[0])
        cache.advance(end - start)
    return torch.stack(logits)


@torch.no_grad()
def assert_same_both_ways(theirs: Any, folder: Path, seed: int = 0, n_tokens: int = N_TOKENS) -> Transformer:
    """Saved by transformers, read by us: the same logits, cached ones too; and back: the same weights and logits.

    Ours are compared with those of transformers in fp64: in fp32 theirs are off by up to 2e-5 themselves.
    """
    tokens_BS = tokens(seed, n_tokens)
    expected = theirs(tokens_BS).logits
    exact = deepcopy(theirs).double()
    assert expected.std() > 0.5  # so that 1e-5 is a strict bound
    theirs.save_pretrained(folder / "theirs")
    config, state = hf.load(folder / "theirs")
    ours = hf.to_transformer(config, state)
    assert_close(ours(tokens_BS), exact(tokens_BS).logits)
    assert_close(
        our_cached_logits(ours, tokens_BS, n_prompt=9), their_cached_logits(exact, tokens_BS, n_prompt=9)
    )

    hf.save(folder / "back", config, state, model_type=theirs.config.model_type)
    back = load_theirs(folder / "back")
    assert_equal_states(back.state_dict(), theirs.state_dict())
    assert_close(back(tokens_BS).logits, expected)
    config_again, state_again = hf.load(folder / "back")
    assert differences(config, config_again) == []
    assert_equal_states(state_again, state)
    return ours


def load_theirs(folder: Path) -> Any:
    """A folder of ours in transformers, without a missing, unexpected or mismatched tensor."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **PLAIN)
    assert not any(report.values()), report
    return model.eval()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.to(expected.dtype), expected, atol=ATOL, rtol=0)


def assert_equal_states(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(actual) == sorted(expected)
    different = [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]
    assert different == []


def edit_config(folder: Path, **fields: Any) -> None:
    """Changes `config.json` of a folder; a field set to `...` is removed."""
    file = folder / "config.json"
    document = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in document.items() if value is not ...}))


def random_fields(model_type: str, seed: int) -> dict[str, Any]:
    """A random variation of a family: sizes, heads, experts, groups, layer kinds, ends, rotary scaling."""
    draw = random.Random(f"{model_type} {seed}")
    n_heads = draw.choice([2, 3, 4, 6])
    n_layers = draw.randint(1, 4)
    fields: dict[str, Any] = {
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "hidden_size": n_heads * draw.choice([6, 10, 12]),
        "tie_word_embeddings": draw.random() < 0.5,
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "rope_parameters": {"rope_type": "default", "rope_theta": draw.choice([100.0, 10_000.0])},
    }
    if not model_type.startswith("deepseek"):
        fields["num_key_value_heads"] = draw.choice([n for n in range(1, n_heads + 1) if n_heads % n == 0])
    if model_type in ("llama", "mixtral", "qwen3_moe"):
        fields["head_dim"] = draw.choice([6, 10, 16])
    if model_type in ("llama", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"):
        fields["attention_bias"] = draw.random() < 0.5
    if model_type != "llama":
        fields |= _random_experts(model_type, draw, n_layers)
    return fields


def _random_experts(model_type: str, draw: random.Random, n_layers: int) -> dict[str, Any]:
    n_groups = draw.randint(1, 4) if model_type.startswith("deepseek") else 1
    per_group = draw.randint(2, 4)
    top_groups = draw.randint(1, n_groups)
    fields: dict[str, Any] = {"num_experts_per_tok": draw.randint(1, per_group * top_groups)}
    counted = {
        "mixtral": "num_local_experts",
        "deepseek_v2": "n_routed_experts",
        "deepseek_v3": "n_routed_experts",
    }
    fields[counted.get(model_type, "num_experts")] = per_group * n_groups
    if model_type in ("qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"):
        fields["norm_topk_prob"] = draw.random() < 0.5
    if model_type in ("qwen2_moe", "qwen3_moe"):
        fields["decoder_sparse_step"] = draw.randint(1, 2)
        fields["mlp_only_layers"] = draw.sample(range(n_layers), draw.randint(0, n_layers - 1))
    if model_type == "qwen2_moe":
        fields["qkv_bias"] = draw.random() < 0.5
    if model_type in ("mixtral", "qwen2_moe", "qwen3_moe") and draw.random() < 0.5:
        fields["sliding_window"] = draw.randint(2, 12)
        fields["use_sliding_window"] = True
    if model_type == "olmoe" and draw.random() < 0.5:
        fields["clip_qkv"] = 0.7
    if model_type.startswith("deepseek"):
        fields |= {
            "n_group": n_groups,
            "topk_group": top_groups,
            "first_k_dense_replace": draw.randint(0, n_layers),
            "q_lora_rank": draw.choice([None, 13]),
            "n_shared_experts": draw.randint(1, 3),
            "routed_scaling_factor": draw.choice([1.0, 2.3]),
        }
    if model_type == "deepseek_v2":
        fields["topk_method"] = draw.choice(["greedy", "group_limited_greedy"])
    if model_type == "deepseek_v3":
        fields["rope_interleave"] = draw.random() < 0.5
    return fields
