"""Latent attention equals DeepSeek's in transformers and its definition; its absorbed form equals the plain one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)

from model.config import LatentConfig, ModelConfig, RopeScaling
from model.layers.attention import mla
from model.layers.attention.gqa import segment
from model.layers.attention.masks import first_seen
from model.layers.attention.mla import MLA, absorbing_is_cheaper
from model.layers.attention.rotary import Rotary
from model.serving.engine.cache import BLOCK_TOKENS, SequenceCache
from tests.model.random_models import (
    SMALL,
    random_tokens,
    random_transformer,
    randomise,
    relative_error,
    stepped,
)
from tests.model.serving.speculation import plain_decoder

CPU = torch.device("cpu")
Shape = tuple[int, ...]
LATENT = LatentConfig(kv_rank=12, d_nope=10, d_rope=4, d_value=6)

CONFIGS = {
    "direct queries": replace(SMALL, latent=LATENT),
    "latent queries": replace(SMALL, latent=replace(LATENT, q_rank=14), rope_interleaved=True),
    "biases": replace(SMALL, latent=replace(LATENT, q_rank=14), qkv_bias=True, output_bias=True),
    "wide values": replace(SMALL, latent=replace(LATENT, d_value=20), norm_eps=1e-3),
    "window": replace(SMALL, latent=LATENT, sliding_window=5),
}


def built(config: ModelConfig) -> MLA:
    torch.manual_seed(5)
    attention = MLA(config)
    randomise(attention)
    return attention


def whole(attention: MLA, config: ModelConfig, x_BSD: torch.Tensor) -> torch.Tensor:
    n_tokens = x_BSD.shape[1]
    first = first_seen(n_tokens, window=config.window(0), device=CPU)
    return attention(x_BSD, Rotary.of(config).at(torch.arange(n_tokens), x_BSD.dtype), first)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_equal_the_definition(name: str) -> None:
    config = CONFIGS[name]
    attention = built(config)
    x_BSD = torch.randn(2, 9, config.d_model, requires_grad=True)
    y_BSD = whole(attention, config, x_BSD)
    weights = plain_decoder.doubled(attention.state_dict())
    x_double = x_BSD.detach().double().requires_grad_()
    expected = torch.stack(
        [
            plain_decoder.latent_attention(config, weights, x_SD, list(range(9)), config.window(0), None)
            for x_SD in x_double
        ]
    )
    assert relative_error(y_BSD, expected) < 1e-5
    seed = torch.randn_like(y_BSD)
    y_BSD.backward(seed)
    expected.backward(seed.double())
    assert relative_error(x_BSD.grad, x_double.grad) < 1e-5
    for parameter_name, parameter in attention.named_parameters():
        assert relative_error(parameter.grad, weights[parameter_name].grad) < 2e-5, parameter_name


@pytest.mark.parametrize("q_rank", [None, 14])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    "scaling", [None, RopeScaling("yarn", 8.0, 16, mscale=0.8, mscale_all_dims=1.2)], ids=["plain", "yarn"]
)
def test_outputs_equal_transformers(
    q_rank: int | None, interleaved: bool, scaling: RopeScaling | None
) -> None:
    config = replace(
        SMALL,
        latent=replace(LATENT, q_rank=q_rank),
        rope_interleaved=interleaved,
        rope_scaling=scaling,
    )
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
        rope |= {"mscale": 0.8, "mscale_all_dim": 1.2}
    their_config = DeepseekV3Config(
        hidden_size=config.d_model,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        q_lora_rank=q_rank,
        kv_lora_rank=LATENT.kv_rank,
        qk_nope_head_dim=LATENT.d_nope,
        qk_rope_head_dim=LATENT.d_rope,
        v_head_dim=LATENT.d_value,
        max_position_embeddings=128,
        rope_parameters=rope,
        rope_interleave=interleaved,
        attn_implementation="eager",
    )
    attention = built(config)
    theirs = DeepseekV3Attention(their_config, layer_idx=0).eval()
    names = {
        "q_a_proj.weight": "w_q_down",
        "q_a_layernorm.weight": "q_norm.weight",
        "q_b_proj.weight": "w_q_up",
        "q_proj.weight": "w_q",
        "kv_a_proj_with_mqa.weight": "w_kv_down",
        "kv_a_layernorm.weight": "kv_norm.weight",
        "kv_b_proj.weight": "w_kv_up",
        "o_proj.weight": "w_o",
    }
    ours = attention.state_dict()
    theirs.load_state_dict({name: ours[names[name]] for name in theirs.state_dict()})
    x_BSD = torch.randn(2, 40, config.d_model)
    mask = torch.full((40, 40), -torch.inf).triu(1)[None, None]
    turn = DeepseekV3RotaryEmbedding(their_config)(x_BSD, torch.arange(40)[None])
    with torch.no_grad():
        expected = theirs(x_BSD, position_embeddings=turn, attention_mask=mask)[0]
        found = whole(attention, config, x_BSD)
    assert relative_error(found, expected) < 1e-5


def force(monkeypatch: pytest.MonkeyPatch, is_absorbed: bool) -> None:
    monkeypatch.setattr(mla, "absorbing_is_cheaper", lambda *_: is_absorbed)


@pytest.mark.parametrize("is_absorbed", [False, True], ids=["plain", "absorbed"])
@pytest.mark.parametrize("name", CONFIGS)
def test_both_cached_forms_equal_the_whole(
    name: str, is_absorbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, is_absorbed)
    config = CONFIGS[name]
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 24).tolist()
    chunks = [7, 1, 1, 6, 1, 8]
    ends = torch.tensor(chunks).cumsum(0) - 1
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0, ends]
    assert relative_error(stepped(model, tokens, chunks), expected) < 1e-5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(sorted(CONFIGS)))
def test_any_chunks_through_a_cache_equal_the_whole(chunks: list[int], name: str) -> None:
    config = CONFIGS[name]
    attention = built(config)
    x_SD = torch.randn(sum(chunks), config.d_model, generator=torch.Generator().manual_seed(len(chunks)))
    with torch.inference_mode():
        expected = whole(attention, config, x_SD[None])[0]
        cache, rotary = SequenceCache(config, torch.float32, CPU), Rotary.of(config)
        outputs = []
        for x_TD in x_SD.split(chunks):
            positions = torch.arange(cache.length, cache.length + len(x_TD))
            part = segment(cache, len(x_TD), CPU, config.window(0))
            outputs.append(attention.forward_cached(x_TD, rotary.at(positions, torch.float32), 0, [part]))
            cache.advance(len(x_TD))
    assert relative_error(torch.cat(outputs), expected) < 1e-5


def test_the_cache_keeps_only_the_latent_and_one_rotary_key() -> None:
    latent = SequenceCache(CONFIGS["direct queries"], torch.bfloat16, CPU)
    latent.reserve(1)
    per_token = SMALL.n_layers * (LATENT.kv_rank + LATENT.d_rope) * 2
    assert latent.n_bytes == BLOCK_TOKENS * per_token
    heads = SequenceCache(replace(SMALL, n_kv_heads=SMALL.n_heads), torch.bfloat16, CPU)
    heads.reserve(1)
    assert latent.n_bytes / heads.n_bytes == (12 + 4) / (2 * SMALL.n_heads * SMALL.d_head)


DEEPSEEK_LIKE = LatentConfig(kv_rank=64, d_nope=16, d_rope=8, d_value=16)


def kernel_flops(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    """Scores and weighted sums of the CPU's attention kernel, which torch's counter does not know."""
    return 2 * math.prod(q[:3]) * k[2] * (q[3] + v[3])


def flops(run: Callable[[], object]) -> int:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: kernel_flops}) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("n_tokens", [1, 2, 8, 32, 64])
@pytest.mark.parametrize("n_past", [0, 5, 60, 190])
def test_the_choice_of_form_is_the_one_with_fewer_operations(
    n_tokens: int, n_past: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, latent=DEEPSEEK_LIKE)
    attention = built(config)
    rotary = Rotary.of(config)

    @torch.inference_mode()
    def through_cache() -> None:
        cache = SequenceCache(config, torch.float32, CPU)
        cache.reserve(n_past + n_tokens)
        cache.advance(n_past)
        positions = torch.arange(n_past, n_past + n_tokens)
        part = segment(cache, n_tokens, CPU)
        attention.forward_cached(torch.randn(n_tokens, 24), rotary.at(positions, torch.float32), 0, [part])

    chosen = flops(through_cache)
    counted = []
    for is_absorbed in (False, True):
        force(monkeypatch, is_absorbed)
        counted.append(flops(through_cache))
    assert counted[0] != counted[1]
    assert chosen == min(counted)


def test_decode_absorbs_and_reading_a_prompt_does_not() -> None:
    deepseek = LatentConfig(kv_rank=512, d_nope=128, d_rope=64, d_value=128, q_rank=1536)
    assert absorbing_is_cheaper(1, 1000, deepseek)
    assert not absorbing_is_cheaper(512, 512, deepseek)


def test_an_ordinary_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"layers\.attention"):
        MLA(SMALL)
