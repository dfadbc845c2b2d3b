"""The transformer's oracle against the shipped stack, against the definition position by position, and itself."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.oracle import transformer as oracle
from model.config import ModelConfig, MoEConfig
from model.serving.engine.cache import SequenceCache
from model.transformer import Transformer

MOE = ModelConfig(
    name="small",
    vocab_size=53,
    d_model=24,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_ff=40,
    max_context=300,
    rope_theta=500.0,
    tie_embeddings=False,
    moe=MoEConfig(d_model=24, d_expert=16, n_experts=5, top_k=2, n_shared=1),
    first_moe_layer=1,
)
DENSE = dataclasses.replace(MOE, moe=None, tie_embeddings=True)


def oracle_config(config: ModelConfig) -> oracle.DecoderConfig:
    return oracle.DecoderConfig(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        d_head=config.d_head,
        top_k=config.moe.top_k if config.moe else 1,
        gate=config.moe.gate if config.moe else "softmax",
        rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
    )


def stack_and_weights(config: ModelConfig, seed: int = 0) -> tuple[Transformer, dict[str, Any]]:
    """The stack's model with random weights, norms included, and the same weights in double precision."""
    torch.manual_seed(seed)
    stack = Transformer(config).eval()
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return stack, {name: value.double().numpy() for name, value in stack.state_dict().items()}


def draw_tokens(config: ModelConfig, *shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(config.vocab_size, size=shape)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_equals_the_shipped_stack_over_shapes(data: st.DataObject) -> None:
    d_model = data.draw(st.sampled_from([8, 24, 40]))
    heads, kv_heads = data.draw(st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (3, 1)]))
    experts = data.draw(st.integers(1, 6))
    moe = MoEConfig(
        d_model=d_model,
        d_expert=data.draw(st.sampled_from([4, 12])),
        n_experts=experts,
        top_k=data.draw(st.integers(1, experts)),
        n_shared=data.draw(st.integers(0, 2)),
        gate=data.draw(st.sampled_from(["softmax", "sigmoid"])),
    )
    config = ModelConfig(
        name="drawn",
        vocab_size=31,
        d_model=d_model,
        n_layers=data.draw(st.integers(1, 3)),
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_head=data.draw(st.sampled_from([2, 8])),
        d_ff=20,
        max_context=64,
        rope_theta=data.draw(st.sampled_from([100.0, 10_000.0])),
        tie_embeddings=data.draw(st.booleans()),
        moe=data.draw(st.sampled_from([moe, None])),
        first_moe_layer=data.draw(st.integers(0, 1)),
    )
    stack, weights = stack_and_weights(config, seed=data.draw(st.integers(0, 1000)))
    tokens_BS = draw_tokens(config, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40)))
    pasts = [oracle.Past(oracle_config(config)) for _ in tokens_BS]
    margin_T = oracle.read(pasts, list(tokens_BS), weights, oracle_config(config)).margin_T
    if margin_T.min() < 1e-4:  # rounding may choose other experts
        return
    exact = oracle.forward(tokens_BS, weights, oracle_config(config))
    with torch.inference_mode():
        theirs = stack(torch.from_numpy(tokens_BS)).numpy()
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=1e-4 * exact.std())


@pytest.mark.parametrize("config", [MOE, DENSE], ids=["moe", "dense"])
def test_reading_in_chunks_behind_a_past_equals_the_stack_s_cache_and_the_whole(config: ModelConfig) -> None:
    stack, weights = stack_and_weights(config)
    small = oracle_config(config)
    ids_AS, ids_BS = draw_tokens(config, 70), draw_tokens(config, 45, seed=2)
    pasts = [oracle.Past(small), oracle.Past(small)]
    caches = [SequenceCache(config, torch.float32, torch.device("cpu")) for _ in pasts]
    cuts = [(0, 30, 10), (30, 31, 25), (31, 70, 45)]  # ends of the first and of the second sequence
    begin = 0
    for start, end, other_end in cuts:
        parts = [ids_AS[start:end], ids_BS[begin:other_end]]
        begin = other_end
        hidden_TD = oracle.read(pasts, parts, weights, small).hidden_TD
        last = [len(parts[0]) - 1, len(hidden_TD) - 1]
        ours = oracle.logits(hidden_TD[last], weights)
        theirs = stack.step([(cache, part.tolist()) for cache, part in zip(caches, parts, strict=True)])
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=1e-4 * ours.std())
        for cache, part in zip(caches, parts, strict=True):
            cache.advance(len(part))
    whole = oracle.forward(ids_AS[None], weights, small)
    np.testing.assert_allclose(whole[0, -1], ours[0], rtol=1e-9, atol=1e-12)


def test_attention_equals_the_definition_query_by_query() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(size) for size in [(5, 4, 6), (9, 2, 6), (9, 2, 6)])
    answer = oracle._attend(q, k, v)
    for number in range(5):
        for head in range(4):
            own = head // 2  # two query heads share a key head
            scores = [
                math.fsum(q[number, head] * k[past, own]) / math.sqrt(6) for past in range(4 + number + 1)
            ]
            total = math.fsum(math.exp(score) for score in scores)
            expected = sum(math.exp(score) / total * v[past, own] for past, score in enumerate(scores))
            np.testing.assert_allclose(answer[number, head], expected, rtol=1e-12)


def test_turning_depends_on_distance_only_and_keeps_lengths() -> None:
    config = oracle.DecoderConfig(n_layers=1, n_heads=1, n_kv_heads=1, d_head=16)
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 16))

    def product(query: int, key: int) -> float:
        turned = [
            oracle.rotate(x, oracle.rotation(np.array([p]), config, x.dtype))
            for x, p in ((q, query), (k, key))
        ]
        np.testing.assert_allclose(np.linalg.norm(turned[0]), np.linalg.norm(q), rtol=1e-12)
        return float(np.sum(turned[0] * turned[1]))

    assert product(7, 3) == pytest.approx(product(107, 103), rel=1e-4)  # angles are single precision
    assert product(7, 3) != pytest.approx(product(8, 3), rel=1e-2)


def test_no_position_sees_the_future() -> None:
    _, weights = stack_and_weights(MOE)
    tokens_BS = np.repeat(draw_tokens(MOE, 1, 60), 2, axis=0)
    tokens_BS[1, 40:] = (tokens_BS[1, 40:] + 1) % MOE.vocab_size
    exact = oracle.forward(tokens_BS, weights, oracle_config(MOE))
    np.testing.assert_allclose(exact[0, :40], exact[1, :40], rtol=1e-9, atol=1e-12)
    assert np.abs(exact[0, 40:] - exact[1, 40:]).min(axis=1).max() > 0


def test_many_queries_in_blocks_equal_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    _, weights = stack_and_weights(DENSE)
    tokens_BS = draw_tokens(DENSE, 1, 50)
    whole = oracle.forward(tokens_BS, weights, oracle_config(DENSE))
    monkeypatch.setattr(oracle, "QUERY_ROWS", 7)
    np.testing.assert_allclose(
        oracle.forward(tokens_BS, weights, oracle_config(DENSE)), whole, rtol=1e-9, atol=1e-12
    )


def test_a_truncated_past_reads_on_as_if_nothing_had_come_after() -> None:
    _, weights = stack_and_weights(MOE)
    config = oracle_config(MOE)
    ids = draw_tokens(MOE, 20)
    past, straight = oracle.Past(config), oracle.Past(config)
    oracle.read([past], [ids], weights, config)
    past.truncate(12)
    assert past.length == 12
    again = oracle.read([past], [ids[12:15]], weights, config).hidden_TD
    oracle.read([straight], [ids[:12]], weights, config)
    np.testing.assert_allclose(
        again, oracle.read([straight], [ids[12:15]], weights, config).hidden_TD, rtol=1e-9, atol=1e-12
    )


def test_single_precision_in_is_single_precision_out_and_close() -> None:
    _, weights = stack_and_weights(MOE)
    single = {name: value.astype(np.float32) for name, value in weights.items()}
    tokens_BS = draw_tokens(MOE, 2, 30)
    plain = oracle.forward(tokens_BS, single, oracle_config(MOE))
    assert plain.dtype == np.float32
    exact = oracle.forward(tokens_BS, weights, oracle_config(MOE))
    assert 0 < np.abs(plain - exact).max() < 1e-4 * exact.std()


def test_margins_are_infinite_without_experts_and_the_smallest_over_layers_with_them() -> None:
    _, weights = stack_and_weights(DENSE)
    config = oracle_config(DENSE)
    assert np.isinf(oracle.read([oracle.Past(config)], [np.arange(5)], weights, config).margin_T).all()
    _, weights = stack_and_weights(MOE)
    config = oracle_config(MOE)
    margin_T = oracle.read([oracle.Past(config)], [np.arange(5)], weights, config).margin_T
    weights["layers.2.ffn.router.weight"] = np.zeros((5, 24))  # every choice of the last layer is a tie
    tied_T = oracle.read([oracle.Past(config)], [np.arange(5)], weights, config).margin_T
    assert (margin_T > 0).all() and not tied_T.any()
