"""The compiled executor: what `Transformer.step` computes, and the same bits in whatever company a sequence comes."""

from __future__ import annotations

import copy
import ctypes
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import native
from model.config import LatentConfig, ModelConfig, MoEConfig, RopeScaling
from model.layers.moe.router import Router
from model.layers.sharing import unshare
from model.serving.engine.blocks import GONE, first_seen_block
from model.serving.engine.expert_load import RouterListener, expert_load_of
from model.serving.executors import native_tables
from model.serving.executors.base import Part
from model.serving.executors.native import BLOCK_TOKENS, NativeExecutor, supports
from model.serving.executors.packed import Weights
from model.serving.executors.plain_torch import TorchExecutor
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_tokens, random_transformer, stepped
from tests.model.serving.executors.executor_steps import logits_of

pytestmark = pytest.mark.slow

N_BLOCKS = 24
MOE = MoEConfig(d_model=24, d_expert=20, n_experts=6, top_k=2)
DEEPSEEK = replace(
    MOE,
    n_shared=2,
    gate="sigmoid",
    bias_balancing=True,
    routed_scale=2.5,
    n_groups=3,
    top_groups=2,
    group_score="top2",
)
LATENT = LatentConfig(kv_rank=12, d_nope=10, d_rope=4, d_value=6, q_rank=14)
CONFIGS: dict[str, ModelConfig] = {
    "llama": SMALL,
    "one key/value head": replace(SMALL, n_kv_heads=1, d_head=6, d_model=30, d_ff=33, vocab_size=70),
    "mixtral with a window": replace(SMALL, moe=MOE, sliding_window=5, tie_embeddings=False),
    "window in some layers": replace(SMALL, sliding_window=20, full_attention_layers=(1,)),
    "a window of more than 32 bits": replace(SMALL, sliding_window=2**32 + 5),
    "qwen2": replace(SMALL, qkv_bias=True, moe=replace(MOE, n_shared=1, shared_width=52, gate_shared=True)),
    "qwen3": replace(SMALL, qk_norm="head", moe=MOE, dense_layers=(0,), d_head=64),
    "olmoe": replace(SMALL, qk_norm="all", qkv_clip=0.5, moe=replace(MOE, normalise_top_k=False)),
    "all biases": replace(SMALL, qkv_bias=True, output_bias=True, ffn_bias=True),
    "shared weights": replace(SMALL, n_layers=3, attention_owners=(0, 0, 2), ffn_owners=(0, 1, 1), moe=MOE),
    "all experts": replace(SMALL, moe=replace(MOE, top_k=6, n_groups=2, top_groups=2)),
    "groups by their best": replace(SMALL, moe=replace(MOE, n_groups=3, top_groups=1)),
    "deepseek": replace(SMALL, latent=LATENT, moe=DEEPSEEK, first_moe_layer=1, rope_interleaved=True),
    "latent with biases": replace(
        SMALL, latent=replace(LATENT, q_rank=None, kv_rank=36, d_value=33), qkv_bias=True, output_bias=True
    ),
    "latent with a window": replace(SMALL, latent=LATENT, qkv_bias=True, sliding_window=7),
    "yarn": replace(SMALL, rope_scaling=RopeScaling("yarn", 4.0, 64)),
    "dynamic": replace(SMALL, rope_scaling=RopeScaling("dynamic", 2.0, 16)),
}


def model_of(name: str) -> Transformer:
    model = random_transformer(CONFIGS[name])
    for module in model.modules():
        if isinstance(module, Router) and module.bias is not None:  # starts at zero
            module.bias += 0.1 * torch.randn_like(module.bias)
    return model.requires_grad_(False).eval()


def table(first: int, n_tokens: int) -> list[int]:
    """Blocks for so many tokens, scattered over the pool."""
    return [(first + 7 * i) % N_BLOCKS for i in range(-(-n_tokens // BLOCK_TOKENS))]


def computed(
    executor: NativeExecutor, tokens: Sequence[int], chunks: Sequence[int], first: int = 3
) -> Tensor:
    """Logits [S, V] after every token of one sequence, read in chunks."""
    blocks, rows, start = table(first, len(tokens)), [], 0
    for n_tokens in chunks:
        chunk = tokens[start : start + n_tokens]
        rows.append(logits_of(executor, [Part(chunk, start, blocks, n_tokens)]))
        start += n_tokens
    return torch.cat(rows)


@pytest.mark.parametrize("name", CONFIGS)
def test_fp32_logits_are_those_of_the_transformer(name: str) -> None:
    model, tokens = model_of(name), random_tokens(SMALL, 44).tolist()
    executor = NativeExecutor(model, N_BLOCKS, weights="fp32")
    found = computed(executor, tokens, [30] + [1] * 14)
    expected = stepped(model, tokens, [30] + [1] * 14)
    assert (found[29:] - expected).abs().max() < 1e-4
    assert expected.abs().max() > 2  # logits of a real size


@pytest.mark.parametrize("name", ["mixtral with a window", "latent with a window"])
@pytest.mark.parametrize("kind", [NativeExecutor, TorchExecutor])
def test_blocks_behind_all_windows_are_not_looked_at(name: str, kind: type) -> None:
    config, tokens = CONFIGS[name], random_tokens(SMALL, 90).tolist()
    chunks = [40, 3, 20, *[1] * 27]
    executor = kind(model_of(name), N_BLOCKS)
    whole, forgetful, start = table(3, len(tokens)), table(4, len(tokens)), 0
    for n_tokens in chunks:
        chunk = tokens[start : start + n_tokens]
        n_gone = first_seen_block(start, config.sliding_window, BLOCK_TOKENS)
        forgetful[:n_gone] = [GONE] * n_gone
        expected = logits_of(executor, [Part(chunk, start, whole, n_tokens)])
        assert torch.equal(logits_of(executor, [Part(chunk, start, forgetful, n_tokens)]), expected)
        start += n_tokens
    assert forgetful.count(GONE) == 5
    with pytest.raises(ValueError, match="block"):
        executor.step([Part([1], start, [GONE] * len(whole))])


@pytest.mark.parametrize("kind", [NativeExecutor, TorchExecutor])
def test_a_layer_without_a_window_needs_every_block(kind: type) -> None:
    executor = kind(model_of("window in some layers"), N_BLOCKS)
    with pytest.raises(ValueError, match="block"):
        executor.step([Part([1], 40, [GONE, 1, 2])])


@pytest.mark.parametrize("name", ["mixtral with a window", "shared weights", "deepseek", "llama"])
def test_the_kernels_count_what_each_expert_gets(name: str) -> None:
    model, tokens = model_of(name), random_tokens(SMALL, 40).tolist()
    executor = NativeExecutor(model, N_BLOCKS, weights="fp32")
    counted, listened = expert_load_of(executor, model), RouterListener(model, every=1)
    computed(executor, tokens, [30, 9, 1])
    model(torch.tensor([tokens]))
    assert counted.load() == listened.load()
    assert counted.n_counted == 3 and counted.every == 1
    assert all(sum(load_E) % 40 == 0 and sum(load_E) for load_E in counted.load())


def test_mixtures_that_layers_share_are_counted_once_per_step() -> None:
    """By listening as by the kernels, of every step and of every other one."""
    model = random_transformer(replace(SMALL, n_layers=4, ffn_owners=(0, 0, 2, 0), moe=MOE)).eval()
    executor = NativeExecutor(model, N_BLOCKS, weights="fp32")
    counted = expert_load_of(executor, model)
    each, second = RouterListener(model, every=1), RouterListener(model, every=2)
    tokens = random_tokens(SMALL, 7).tolist()
    for _ in range(4):
        computed(executor, tokens, [7])
        model(torch.tensor([tokens]))
    assert (counted.n_counted, each.n_counted, second.n_counted) == (4, 4, 2)
    assert counted.load() == each.load()
    assert [[2 * pairs for pairs in load_E] for load_E in second.load()] == each.load()


@pytest.mark.parametrize("name", ["mixtral with a window", "shared weights", "deepseek", "dynamic"])
def test_a_consumed_transformer_leaves_the_same_bits_and_no_weights(name: str) -> None:
    model, tokens = model_of(name), random_tokens(SMALL, 40).tolist()
    expected = computed(NativeExecutor(model, N_BLOCKS, weights="fp32"), tokens, [30, 10])
    consuming = NativeExecutor(model, N_BLOCKS, weights="fp32", consume=True)
    assert torch.equal(computed(consuming, tokens, [30, 10]), expected)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.mark.parametrize("weights", ["bf16", "int8", "int8-dynamic", "int4"])
@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_fewer_bits_are_a_little_off(name: str, weights: Weights) -> None:
    """On dense parts: where a router is near a tie, fewer bits choose another expert."""
    model = random_transformer(replace(CONFIGS[name], moe=None)).requires_grad_(False)
    tokens = random_tokens(SMALL, 40).tolist()
    found = computed(NativeExecutor(model, N_BLOCKS, weights=weights), tokens, [40])
    expected = model(torch.tensor([tokens]))[0]
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert 1e-4 < error < {"bf16": 0.01, "int8": 0.03, "int8-dynamic": 0.035, "int4": 0.3}[weights]


@pytest.mark.parametrize("weights", get_args(Weights))
@pytest.mark.parametrize("name", ["qwen3", "deepseek", "mixtral with a window"])
def test_chunks_of_any_size_give_the_same_bits(name: str, weights: Weights) -> None:
    model, tokens = model_of(name), random_tokens(SMALL, 50).tolist()
    executor = NativeExecutor(model, N_BLOCKS, weights=weights)
    whole = computed(executor, tokens, [50])
    for chunks in ([1] * 50, [13, 1, 30, 6], [16, 16, 16, 2], [49, 1]):
        assert torch.equal(computed(executor, tokens, chunks, first=11), whole)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["qwen3 fp32", "qwen3 int8-dynamic", "deepseek bf16"]), seed=st.integers(0, 10**6)
)
def test_a_sequence_has_the_same_bits_alone_and_in_any_batch(name: str, seed: int) -> None:
    """Three sequences advance in random chunks of random steps; each equals its whole prompt read alone."""
    executor, draw = executor_of(*name.split()), random.Random(seed)
    prompts = [random_tokens(SMALL, length, seed=length).tolist() for length in (37, 20, 5)]
    alone = [computed(executor, prompt, [len(prompt)]) for prompt in prompts]
    past = [0, 0, 0]
    while any(done < len(prompt) for done, prompt in zip(past, prompts, strict=True)):
        riders, parts = [], []
        for i in draw.sample(range(3), 3):
            n_tokens = draw.randint(0, len(prompts[i]) - past[i])
            if n_tokens:
                tokens = prompts[i][past[i] : past[i] + n_tokens]
                parts.append(Part(tokens, past[i], range(8 * i, 8 * i + 3), draw.randint(0, n_tokens)))
                riders.append(i)
        if not parts:
            continue
        logits = torch.split(logits_of(executor, parts), [part.n_logits for part in parts])
        for i, part, found in zip(riders, parts, logits, strict=True):
            past[i] += len(part.tokens)
            assert torch.equal(found, alone[i][past[i] - part.n_logits : past[i]])


@cache
def executor_of(name: str, weights: Weights) -> NativeExecutor:
    return NativeExecutor(model_of(name), N_BLOCKS, weights=weights)


@pytest.mark.parametrize("name", ["qwen2", "deepseek"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    model, tokens = model_of(name), random_tokens(SMALL, 40).tolist()
    one, three = (NativeExecutor(model, N_BLOCKS, weights="int8", n_threads=n) for n in (1, 3))
    assert torch.equal(computed(one, tokens, [33, 7]), computed(three, tokens, [33, 7]))


def test_the_stack_without_sharing_has_the_same_bits_and_more_bytes() -> None:
    model, tokens = model_of("shared weights"), random_tokens(SMALL, 20).tolist()
    config, state = unshare(model.config, model.state_dict())
    copied = Transformer(config)
    copied.load_state_dict(state)
    shared, own = (NativeExecutor(m, N_BLOCKS, weights="bf16") for m in (model, copied))
    assert torch.equal(computed(shared, tokens, [20]), computed(own, tokens, [20]))
    assert shared.weights.n_bytes < 0.75 * own.weights.n_bytes


def test_a_copied_block_takes_the_sequence_over() -> None:
    model, tokens = model_of("llama"), random_tokens(SMALL, 30).tolist()
    executor = NativeExecutor(model, N_BLOCKS, weights="fp32")
    executor.step([Part(tokens[:20], 0, [4, 5])])
    executor.copy_block(5, 9)
    other = [(token + 1) % SMALL.vocab_size for token in tokens[20:]]
    first, second = logits_of(executor, [Part(tokens[20:], 20, [4, 5]), Part(other, 20, [4, 9])])
    assert torch.equal(first, computed(executor, tokens, [30])[-1])
    assert torch.equal(second, computed(executor, tokens[:20] + other, [30])[-1])


def test_what_an_earlier_owner_left_in_a_block_has_no_effect() -> None:
    """Not even where its numbers were none."""
    model, tokens = model_of("llama"), random_tokens(SMALL, 21).tolist()
    for weights in ("fp32", "bf16"):
        fresh = computed(NativeExecutor(model, N_BLOCKS, weights=weights), tokens, [21])
        executor = NativeExecutor(model, N_BLOCKS, weights=weights)
        executor._cache.fill_(0xFF)  # NaN in either format
        assert torch.equal(computed(executor, tokens, [21]), fresh)


def test_a_repeated_step_gives_the_same_bits() -> None:
    """After a failure the engine asks again; rejected drafts are written over."""
    model, tokens = model_of("qwen3"), random_tokens(SMALL, 24).tolist()
    executor = NativeExecutor(model, N_BLOCKS, weights="bf16")
    plain = computed(executor, tokens, [24])
    blocks = table(3, 24)
    executor.step([Part(tokens[:20], 0, blocks)])
    executor.step([Part([5, 6, 7], 20, blocks, 3)])
    for _ in range(2):
        assert torch.equal(logits_of(executor, [Part(tokens[20:], 20, blocks, 4)]), plain[20:])


def test_numbers_that_are_none_reach_the_logits_of_their_sequence_only() -> None:
    model, tokens = model_of("qwen3"), random_tokens(SMALL, 12).tolist()
    bad = max(set(range(SMALL.vocab_size)) - set(tokens))
    model.embedding[bad] = torch.nan
    model.head = torch.nn.Parameter(torch.randn_like(model.embedding), requires_grad=False)
    for weights in get_args(Weights):
        executor = NativeExecutor(model, N_BLOCKS, weights=weights)
        sound, broken = logits_of(executor, [Part(tokens, 0, [1]), Part([1, bad, 2], 0, [2])])
        assert sound.isfinite().all() and not broken.isfinite().any()
        assert torch.equal(logits_of(executor, [Part(tokens, 0, [2])])[0], sound)


def test_the_dtype_of_the_blocks_does_not_matter() -> None:
    model, tokens = model_of("qwen2"), random_tokens(SMALL, 20).tolist()
    bf16 = computed(NativeExecutor(model.cast_blocks(torch.bfloat16), N_BLOCKS, weights="bf16"), tokens, [20])
    fp32 = computed(NativeExecutor(model.float(), N_BLOCKS, weights="bf16"), tokens, [20])
    assert torch.equal(bf16, fp32)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_of_bf16_is_kept_as_it_is_or_read_from_the_head(weights: Weights, tied: bool) -> None:
    model = random_transformer(replace(SMALL, d_model=30, tie_embeddings=tied)).bfloat16().eval()
    assert model.embedding is not None
    model.embedding.data[3, 5] = 1e-39  # smaller than what narrowing keeps
    tokens = random_tokens(SMALL, 20).tolist()
    wide = copy.deepcopy(model).float()
    expected = NativeExecutor(wide, N_BLOCKS, weights=weights)
    executor = NativeExecutor(model, N_BLOCKS, weights=weights)
    if weights != "fp32":  # else both read the head
        assert expected.weights.embedding.value is not None
    assert torch.equal(computed(executor, tokens, [20]), computed(expected, tokens, [20]))
    assert (executor.weights.embedding.value is None) == (tied and weights != "int8")
    given = model.embedding.data_ptr()
    consuming = NativeExecutor(model, N_BLOCKS, weights=weights, consume=True)
    assert torch.equal(computed(consuming, tokens, [20]), computed(expected, tokens, [20]))
    for each in (executor, consuming):
        assert each.weights.embedding.value != given  # which a mapped file may keep


def test_blocks_are_as_large_as_said() -> None:
    executor = NativeExecutor(model_of("llama"), N_BLOCKS, weights="fp32")
    n_values = 16  # of 8, rounded up to a vector
    assert executor.bytes_per_block == SMALL.n_layers * SMALL.n_kv_heads * BLOCK_TOKENS * (8 + n_values) * 4
    assert executor._cache.numel() == executor.bytes_per_block * N_BLOCKS


GOOD = Part([1, 2, 3], 14, [0, 1])


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "needs parts"),
        ([replace(GOOD, tokens=[])], "needs new tokens"),
        ([replace(GOOD, past=-1)], "needs new tokens"),
        ([replace(GOOD, past=SMALL.max_context - 2, blocks=list(range(20)))], "max_context"),
        ([replace(GOOD, blocks=[0])], "do not fit into 1 blocks"),
        ([GOOD, replace(GOOD, blocks=[2, N_BLOCKS])], "blocks are in"),
        ([replace(GOOD, blocks=[-1, 0])], "blocks are in"),
        ([replace(GOOD, n_logits=4)], "after its own new tokens only"),
        ([replace(GOOD, n_logits=-1)], "after its own new tokens only"),
        ([replace(GOOD, tokens=[1, SMALL.vocab_size])], "token ids"),
        ([replace(GOOD, tokens=[-1])], "token ids"),
    ],
)
def test_a_step_that_would_leave_its_memory_is_refused(parts: list[Part], why: str) -> None:
    executor = NativeExecutor(model_of("llama"), N_BLOCKS, weights="fp32")
    with pytest.raises(ValueError, match=why):
        executor.step(parts)
    assert (executor._cache == 0).all()


def test_a_step_without_wanted_logits_only_writes() -> None:
    executor = NativeExecutor(model_of("llama"), N_BLOCKS, weights="fp32")
    assert executor.step([replace(GOOD, n_logits=0)]).shape == (0, SMALL.vocab_size)
    assert (executor._cache[:, :2] != 0).any()


def test_what_is_not_supported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, moe=replace(MOE, n_experts=2000))
    assert "more than 1024 experts" in (supports(config) or "")
    assert "keys wider than 2048" in (supports(replace(SMALL, d_head=2050)) or "")
    model = model_of("llama")
    with pytest.raises(ValueError, match="weights must be one of fp32, bf16"):
        NativeExecutor(model, N_BLOCKS, weights="int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_blocks"):
        NativeExecutor(model, 0)
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "state", lambda: "no native kernels")
    assert supports(SMALL) == "no native kernels"
    with pytest.raises(ValueError, match="small has no compiled executor: no native kernels"):
        NativeExecutor(model, N_BLOCKS)


def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = native.library()
    assert library is not None
    monkeypatch.setattr(native_tables, "MIRRORED", (*native_tables.MIRRORED[:-1], native_tables.Layer))
    with pytest.raises(native_tables.TablesError, match="rebuild it"):
        native_tables.check(library)
    with pytest.raises(native_tables.TablesError, match="no compiled engine"):
        native_tables.check(ctypes.CDLL(None))
