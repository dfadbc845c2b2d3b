"""The transformer equals its definition and transformers' Llama; decoding through a cache equals the full forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import LatentConfig, ModelConfig, RopeScaling
from model.presets import PRESETS
from model.serving.engine.cache import SequenceCache
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_tokens, random_transformer, relative_error, stepped
from tests.model.serving.speculation import plain_decoder

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
LATENT = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6, q_rank=10)
WINDOWED = dataclasses.replace(SMALL, n_layers=3, sliding_window=4, full_attention_layers=(1,))
KINDS = {
    "dense": SMALL,
    "untied, all biases": dataclasses.replace(
        SMALL, tie_embeddings=False, qkv_bias=True, output_bias=True, ffn_bias=True
    ),
    "experts, norms": dataclasses.replace(
        SMALL,
        moe=dataclasses.replace(PRESETS["tiny"].moe, d_model=24),
        first_moe_layer=1,
        qk_norm="head",
    ),
    "latent": dataclasses.replace(SMALL, latent=LATENT, rope_interleaved=True),
    "windows": WINDOWED,
}

DYNAMIC = dataclasses.replace(SMALL, rope_scaling=RopeScaling("dynamic", 4.0, original_context=4))


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


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_the_definition(name: str) -> None:
    config = KINDS[name]
    model = random_transformer(config)
    tokens = random_tokens(config, 2, 10)
    state = {key: tensor.double() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        hidden = model.hidden(tokens)
        logits = model(tokens)
    assert torch.equal(model.logits(hidden), logits)
    for row, ids in enumerate(tokens.tolist()):
        x_SD = plain_decoder.hidden(config, state, ids)
        assert relative_error(hidden[row], x_SD) < 1e-5
        assert relative_error(logits[row], plain_decoder.logits(config, state, x_SD)) < 1e-5


@pytest.mark.parametrize("config", [*KINDS.values(), DYNAMIC], ids=[*KINDS, "dynamic rotary"])
def test_packed_documents_are_as_if_alone(config: ModelConfig) -> None:
    """Two rows, cut differently; a third document of padding is beyond the last."""
    model = random_transformer(config)
    rows = [[6, 1, 5], [9, 2, 1]]
    tokens = random_tokens(config, 2, 12)
    documents = torch.tensor([[number for number, n in enumerate(row) for _ in range(n)] for row in rows])
    positions = torch.tensor([[place for n in row for place in range(n)] for row in rows])
    with torch.no_grad():
        packed = model(tokens, positions_BS=positions, documents_BS=documents)
        for row, lengths in enumerate(rows):
            alone = [model(part[None])[0] for part in tokens[row].split(lengths)]
            assert relative_error(packed[row], torch.cat(alone)) < 1e-5
        unmasked = model(tokens, positions_BS=positions)
    assert relative_error(unmasked, packed) > 0.01


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_rows_and_rows_of_nothing_are_batches_too(name: str, shape: tuple[int, int]) -> None:
    model = random_transformer(KINDS[name])
    logits = model(torch.empty(shape, dtype=torch.int64))
    assert logits.shape == (*shape, KINDS[name].vocab_size)
    logits.sum().backward()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_decodes_through_its_cache(name: str) -> None:
    config = KINDS[name]
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 30)
    chunks = [9, 1, 1, 1, 7, 1, 10]
    with torch.no_grad():
        expected = model(tokens[None])[0, torch.tensor(chunks).cumsum(0) - 1]
    assert relative_error(stepped(model, tokens.tolist(), chunks), expected) < 1e-5


def test_ragged_steps_of_windows_and_latents_do_not_mix_sequences() -> None:
    for config in (WINDOWED, KINDS["latent"]):
        model = random_transformer(config).eval()
        first, second = random_tokens(config, 2, 20)
        with torch.no_grad():
            expected = model(torch.stack((first, second)))
        caches = new_cache(model), new_cache(model)
        model.step([(caches[0], first[:11].tolist())])
        caches[0].advance(11)
        mixed = model.step([(caches[0], first[11:14].tolist()), (caches[1], second[:9].tolist())])
        assert relative_error(mixed, torch.stack((expected[0, 13], expected[1, 8]))) < 1e-5


def test_dynamic_rotary_follows_each_sequences_own_length() -> None:
    scaling = RopeScaling("dynamic", 4.0, original_context=16)
    config = dataclasses.replace(SMALL, rope_scaling=scaling)
    model = random_transformer(config).eval()
    long, short = random_tokens(config, 40).tolist(), random_tokens(config, 9, seed=2).tolist()
    with torch.no_grad():
        expected = torch.stack((model(torch.tensor([long]))[0, -1], model(torch.tensor([short]))[0, -1]))
    together = model.step([(new_cache(model), long), (new_cache(model), short)])
    assert relative_error(together, expected) < 1e-5
    plain = random_transformer(dataclasses.replace(config, rope_scaling=None)).eval()
    unscaled = plain.step([(new_cache(plain), long), (new_cache(plain), short)])
    assert relative_error(unscaled[1], expected[1]) < 1e-5 < 0.01 < relative_error(unscaled[0], expected[0])


def test_a_sliding_window_forgets_what_lies_beyond_all_its_layers() -> None:
    config = dataclasses.replace(SMALL, n_layers=2, sliding_window=4)
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 1, 20)
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % config.vocab_size
    with torch.no_grad():
        moved = (model(tokens) - model(other)).abs().amax(-1)[0]
    reach = 3 + config.n_layers * (4 - 1)
    assert moved[3 : reach + 1].min() > 0 == moved[:3].max()
    assert moved[reach + 1 :].max() == 0


def test_rows_beyond_the_context_need_positions() -> None:
    model = random_transformer(dataclasses.replace(SMALL, max_context=8))
    tokens = random_tokens(SMALL, 1, 12)
    with pytest.raises(ValueError, match="context of 8"):
        model(tokens)
    positions = torch.arange(12)[None] % 6
    documents = torch.arange(12)[None] // 6
    packed = model(tokens, positions_BS=positions, documents_BS=documents)
    assert relative_error(packed[:, 6:], model(tokens[:, 6:]).detach()) < 1e-5
