"""Attention of every kind equals its definition in fp64, forward and backward, whole and through a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig
from model.layers.attention.gqa import Attention, segment
from model.layers.attention.masks import first_seen
from model.layers.attention.rotary import Rotary
from model.serving.engine.cache import SequenceCache
from tests.model.random_models import SMALL, randomise, relative_error
from tests.model.serving.speculation import plain_decoder

CPU = torch.device("cpu")

CONFIGS = {
    "multi-head": replace(SMALL, n_kv_heads=4),
    "grouped-query": SMALL,
    "multi-query": replace(SMALL, n_kv_heads=1),
    "biases": replace(SMALL, qkv_bias=True, output_bias=True),
    "norm per head": replace(SMALL, qk_norm="head"),
    "norm over all heads": replace(SMALL, qk_norm="all", n_kv_heads=1),
    "clipped": replace(SMALL, qkv_clip=0.8),
    "clipped after a norm": replace(SMALL, qkv_clip=0.8, qk_norm="all", qkv_bias=True),
    "interleaved": replace(SMALL, rope_interleaved=True),
    "window": replace(SMALL, sliding_window=5),
}


def built(config: ModelConfig) -> Attention:
    torch.manual_seed(3)
    attention = Attention(config)
    randomise(attention)
    return attention


def whole(
    attention: Attention, config: ModelConfig, x_BSD: torch.Tensor, **places: torch.Tensor
) -> torch.Tensor:
    positions = places.get("positions", torch.arange(x_BSD.shape[1]))
    first = first_seen(
        x_BSD.shape[1], documents_BS=places.get("documents"), window=config.window(0), device=CPU
    )
    return attention(x_BSD, Rotary.of(config).at(positions, x_BSD.dtype), first)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_equal_the_definition(name: str) -> None:
    config = CONFIGS[name]
    attention = built(config)
    x_BSD = torch.randn(2, 11, config.d_model, requires_grad=True)
    y_BSD = whole(attention, config, x_BSD)
    weights = plain_decoder.doubled(attention.state_dict())
    x_double = x_BSD.detach().double().requires_grad_()
    expected = torch.stack(
        [
            plain_decoder.attention(config, weights, x_SD, list(range(11)), config.window(0), None)
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


@pytest.mark.parametrize("name", ["grouped-query", "window"])
def test_packed_documents_equal_each_document_alone(name: str) -> None:
    config = CONFIGS[name]
    attention = built(config)
    lengths = [4, 1, 7]
    x_1SD = torch.randn(1, sum(lengths), config.d_model)
    documents = torch.cat([torch.full((n,), 7 - number) for number, n in enumerate(lengths)])[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = whole(attention, config, x_1SD, documents=documents, positions=positions)
    alone = [whole(attention, config, part) for part in x_1SD.split(lengths, dim=1)]
    assert torch.allclose(packed, torch.cat(alone, dim=1), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["grouped-query", "multi-query", "window", "norm per head", "biases"]),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
)
def test_any_chunks_through_a_cache_equal_the_whole(name: str, chunks: list[int]) -> None:
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
            outputs.append(attention.forward_cached(x_TD, rotary.at(positions, torch.float32), 1, [part]))
            cache.advance(len(x_TD))
    assert torch.allclose(torch.cat(outputs), expected, atol=1e-5)


def test_a_windows_segment_leaves_out_what_no_query_reaches() -> None:
    cache = SequenceCache(SMALL, torch.float32, CPU)
    cache.reserve(20)
    cache.advance(20)
    one = segment(cache, 1, CPU, window=5)
    assert (one.first, one.mask) == (16, None)
    three = segment(cache, 3, CPU, window=5)
    assert three.first == 16 and three.mask is not None and three.mask.shape == (3, 7)
    assert three.mask.sum(-1).tolist() == [5, 5, 5]
    assert segment(cache, 3, CPU).first == 0


def test_bf16_weights_stay_close_to_fp32() -> None:
    config = CONFIGS["norm per head"]
    attention = built(config)
    x_BSD = torch.randn(1, 9, config.d_model)
    expected = whole(attention, config, x_BSD)
    found = whole(attention.to(torch.bfloat16), config, x_BSD.bfloat16())
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected.detach()) < 0.05
