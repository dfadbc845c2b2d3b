"""The transformer equals transformers' Llama, and decoding through the cache equals the full forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import ModelConfig
from model.presets import PRESETS
from model.serving.cache import SequenceCache
from model.transformer import Transformer

DENSE = ModelConfig(
    name="llama-shaped",
    vocab_size=97,
    d_model=48,
    n_layers=3,
    n_heads=6,
    n_kv_heads=2,
    d_head=8,
    d_ff=80,
    max_context=600,
    rope_theta=5_000.0,
)
MOE = dataclasses.replace(PRESETS["tiny"], n_layers=3, first_moe_layer=1, max_context=600)


def llama(config: ModelConfig) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.d_head,
            max_position_embeddings=config.max_context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            initializer_range=0.2,  # large enough for logits of a real model's size
        )
    ).eval()


def ours_from(theirs: LlamaForCausalLM, config: ModelConfig) -> Transformer:
    names = {
        "embed_tokens.weight": "embedding",
        "input_layernorm.weight": "attention_norm.weight",
        "self_attn.q_proj.weight": "attention.w_q",
        "self_attn.k_proj.weight": "attention.w_k",
        "self_attn.v_proj.weight": "attention.w_v",
        "self_attn.o_proj.weight": "attention.w_o",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_proj.weight": "ffn.w_gate",
        "mlp.up_proj.weight": "ffn.w_up",
        "mlp.down_proj.weight": "ffn.w_down",
        "lm_head.weight": "head",
    }
    state = {}
    for name, tensor in theirs.state_dict().items():
        ours = name.removeprefix("model.")
        for old, new in names.items():
            ours = ours.replace(old, new)
        if ours != "head" or not config.tie_embeddings:
            state[ours] = tensor
    model = Transformer(config)
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
def test_dense_transformer_equals_llama(tied: bool) -> None:
    config = dataclasses.replace(DENSE, tie_embeddings=tied)
    theirs = llama(config)
    tokens = torch.randint(config.vocab_size, (2, 150), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = theirs(tokens).logits, ours_from(theirs, config)(tokens)
    assert expected.abs().max() > 1
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def new_cache(model: Transformer) -> SequenceCache:
    return SequenceCache(model.config, model.dtype, model.device)


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_cached_decode_equals_the_full_forward(config: ModelConfig) -> None:
    """Prefill in two chunks, then token by token past a block's end; every position's logits must agree."""
    torch.manual_seed(2)
    model = Transformer(config).eval()
    tokens = torch.randint(config.vocab_size, (300,)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0]
    cache, start = new_cache(model), 0
    for n_tokens in [100, 140, *[1] * 60]:
        end = start + n_tokens
        logits = model.step([(cache, tokens[start:end])])[0]
        cache.advance(n_tokens)
        assert (logits - expected[end - 1]).abs().max() <= 1e-5 * expected.abs().max(), end
        start = end


def test_sequences_in_one_ragged_step_do_not_see_each_other() -> None:
    torch.manual_seed(3)
    model = Transformer(MOE).eval()
    first, second = torch.randint(MOE.vocab_size, (2, 40)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([first, second]))
    caches = new_cache(model), new_cache(model)
    model.step([(caches[0], first[:30])])
    caches[0].advance(30)
    mixed = model.step([(caches[0], first[30:31]), (caches[1], second[:17])])  # one decodes, one prefills
    assert torch.allclose(mixed, torch.stack((expected[0, 30], expected[1, 16])), atol=1e-5)


def test_a_failed_step_leaves_the_past_untouched() -> None:
    model = Transformer(DENSE).eval()
    cache = new_cache(model)
    before = model.step([(cache, [1, 2, 3])])
    assert cache.length == 0  # never advanced: as if it had not happened
    assert torch.equal(model.step([(cache, [1, 2, 3])]), before)


def test_stepping_beyond_the_context_is_refused() -> None:
    model = Transformer(DENSE)
    with pytest.raises(ValueError, match="max_context"):
        model.step([(new_cache(model), [1] * (DENSE.max_context + 1))])
    with pytest.raises(ValueError, match="new tokens"):
        model.step([(new_cache(model), [])])


def test_cache_memory_grows_by_blocks_and_never_beyond_the_context() -> None:
    cache = SequenceCache(DENSE, torch.float32, torch.device("cpu"))
    per_token = 4 * 2 * DENSE.n_layers * DENSE.n_kv_heads * DENSE.d_head
    sizes = []
    for n_tokens in (1, 257, 600):
        cache.reserve(n_tokens)
        sizes.append(cache.n_bytes / per_token)
    assert sizes == [256, 512, 600]
    with pytest.raises(ValueError, match="context of 600"):
        cache.reserve(601)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_parameter_counts_are_those_of_the_built_model(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == PRESETS[name].total_parameters
