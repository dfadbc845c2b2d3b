"""Activation checkpointing changes neither values nor gradients, keeps less, and computes again what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import ConfigError, LatentConfig, ModelConfig, MoEConfig
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_tokens, random_transformer

MOE = MoEConfig(d_model=24, d_expert=12, n_experts=4, top_k=2, n_shared=1)
LATENT = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6)

CONFIGS = {
    "dense": SMALL,
    "biases and norms": replace(SMALL, qkv_bias=True, ffn_bias=True, qk_norm="head", sliding_window=4),
    "experts": replace(SMALL, moe=MOE, first_moe_layer=1),
    "latent": replace(SMALL, latent=LATENT, moe=MOE),
    "shared and ahead": replace(SMALL, attention_owners=(0, 0), ffn_owners=(0, 0), n_ahead=1),
}
MODES = ("none", "full", "selective")
ATTENTION_KERNELS = (
    "causal_attention.default",
    "_scaled_dot_product_flash_attention_for_cpu.default",
)  # ours, torch's


class Watch(TorchDispatchMode):
    """Counts operations and remembers the memory that they allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = f"{func.__name__}"
        self.calls[name] = self.calls.get(name, 0) + 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def live_bytes(self) -> int:
        return sum(n_bytes for reference, n_bytes in self.storages.values() if not reference.expired())


def loss_of(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    x_BSD = model.hidden(tokens)
    logits = [model.logits(x_BSD), *model.mtp_logits(x_BSD, tokens)]
    return sum(one.square().mean() for one in logits)


def gradients(model: Transformer, tokens: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    model.zero_grad()
    loss = loss_of(model, tokens)
    loss.backward()
    yield "loss", loss.detach()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        yield name, parameter.grad.clone()


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_plain_training(name: str) -> None:
    config = CONFIGS[name]
    model = random_transformer(config).train()
    tokens = random_tokens(config, 2, 10)
    expected = dict(gradients(model, tokens))
    for mode in ("full", "selective"):
        model.checkpointing = mode
        assert model.checkpointing == mode
        for parameter_name, gradient in gradients(model, tokens):
            assert torch.allclose(gradient, expected[parameter_name], atol=1e-7, rtol=1e-5), parameter_name


def watched(config: ModelConfig, mode: str, n_tokens: int) -> tuple[int, Watch, Watch]:
    """Bytes alive between forward and backward, and what both of them called."""
    model = random_transformer(config).train()
    model.checkpointing = mode
    tokens = random_tokens(config, 2, n_tokens)
    model.rotation_and_spans(tokens)  # the table of rotations is no activation
    with Watch() as forward:
        loss = loss_of(model, tokens)
    alive = forward.live_bytes()
    with Watch() as backward:
        loss.backward()
    return alive, forward, backward


def attention_calls(watch: Watch) -> int:
    return sum(watch.calls.get(kernel, 0) for kernel in ATTENTION_KERNELS)


@pytest.mark.parametrize("name", ["dense", "experts", "latent"])
def test_less_is_kept(name: str) -> None:
    """Logits and the loss's inputs are kept in every mode: a small vocabulary keeps them from hiding the blocks."""
    config = replace(CONFIGS[name], vocab_size=5, n_layers=6)
    kept = {mode: watched(config, mode, 64)[0] for mode in MODES}
    assert kept["full"] < 0.3 * kept["none"]
    assert kept["full"] < kept["selective"] < 0.6 * kept["none"]


def test_selective_computes_the_feed_forward_again_and_attention_not() -> None:
    config = replace(SMALL, n_layers=3)
    kernels, products = {}, {}
    for mode in MODES:
        _, forward, backward = watched(config, mode, 16)
        assert attention_calls(forward) == config.n_layers
        kernels[mode] = attention_calls(backward)
        products[mode] = backward.calls["mm.default"]
    assert kernels == {"none": 0, "full": config.n_layers, "selective": 0}
    # A block's gate and up (its last product is not needed for its own gradient); in full mode also q, k, v and o.
    assert products["selective"] - products["none"] == 2 * config.n_layers
    assert products["full"] - products["none"] == 6 * config.n_layers


def test_evaluation_keeps_nothing_and_recomputes_nothing() -> None:
    model = random_transformer(SMALL).eval()
    tokens = random_tokens(SMALL, 1, 8)
    with torch.no_grad():
        expected = model(tokens)
        model.checkpointing = "full"
        assert torch.equal(model(tokens), expected)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="none, full, selective"):
        random_transformer(SMALL).checkpointing = "some"
