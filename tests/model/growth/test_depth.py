"""Identity blocks keep the logits of every kind of layer; stacked copies do not, and say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import ConfigError, LatentConfig, ModelConfig
from model.growth import Growth, insert_identity_blocks, stack_layers
from model.presets import PRESETS
from model.training.losses.cross_entropy import next_token_loss
from model.transformer import Transformer

TINY = replace(PRESETS["tiny"], name="parent", vocab_size=50, n_layers=3)
CONFIGS = {
    "moe behind dense": replace(TINY, first_moe_layer=1),
    "dense in the middle": replace(TINY, dense_layers=(1,)),
    "biases": replace(TINY, moe=None, qkv_bias=True, output_bias=True, ffn_bias=True),
    "latent": replace(TINY, latent=LatentConfig(kv_rank=16, d_nope=8, d_rope=8, d_value=8)),
    "windows": replace(TINY, sliding_window=6, full_attention_layers=(1,)),
    "shared": replace(TINY, moe=None, attention_owners=(0, 0, 2), ffn_owners=(0, 1, 0)),
    "ahead": replace(TINY, first_moe_layer=2, n_ahead=1),
}


def parent_of(config: ModelConfig) -> Transformer:
    torch.manual_seed(4)
    parent = Transformer(config).eval()
    with torch.no_grad():
        for name, parameter in parent.named_parameters():
            if name.rpartition(".")[2].startswith("b_"):
                parameter += 0.3 * torch.randn(parameter.shape)
    return parent


def child_of(growth: Growth, parent: Transformer) -> Transformer:
    child = Transformer(growth.config).eval()
    child.load_state_dict(growth.state(parent.state_dict()))
    return child


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(5))
    x = model.hidden(tokens)
    return torch.stack([model.logits(x), *model.mtp_logits(x, tokens)])


@pytest.mark.parametrize("after", [[0], [2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_identity_blocks_change_no_logit(config: ModelConfig, after: list[int]) -> None:
    parent = parent_of(config)
    growth = insert_identity_blocks(config, after)
    child = child_of(growth, parent)
    assert growth.preserves and growth.config.n_layers == 3 + len(after)
    assert torch.equal(logits(child), logits(parent))
    assert sum(p.numel() for p in child.parameters()) == growth.config.total_parameters


def test_a_new_block_is_of_its_sources_kind_and_keeps_its_inner_weights() -> None:
    config = CONFIGS["moe behind dense"]
    child = child_of(insert_identity_blocks(config, [0, 1]), parent_of(config))
    assert [child.config.is_moe_layer(layer) for layer in range(5)] == [False, False, True, True, True]
    source, new = child.layers[2], child.layers[3]
    assert torch.equal(source.attention.w_q, new.attention.w_q)
    assert torch.equal(source.ffn.experts.w_up, new.ffn.experts.w_up)
    assert torch.equal(source.ffn.router.weight, new.ffn.router.weight)
    for zero in (new.attention.w_o, new.ffn.experts.w_down, new.ffn.shared.w_down):
        assert not zero.any()


@pytest.mark.parametrize(
    "growth",
    [insert_identity_blocks(CONFIGS["shared"], [1]), stack_layers(CONFIGS["shared"], [0, 1, 2, 1, 2])],
)
def test_a_new_layers_weights_lie_in_memory_of_their_own(growth: Growth) -> None:
    """Otherwise a change of one is a change of the other, and no file can hold both."""
    state = growth.state(parent_of(CONFIGS["shared"]).state_dict())
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


def test_windows_stay_with_their_layers() -> None:
    config = CONFIGS["windows"]
    child = insert_identity_blocks(config, [1]).config
    assert [child.window(layer) for layer in range(4)] == [6, None, None, 6]


def test_a_new_block_owns_what_its_source_shares() -> None:
    config = CONFIGS["shared"]
    growth = insert_identity_blocks(config, [1])
    child = growth.config
    assert child.attention_owners == (0, 0, 2, 3) and child.ffn_owners == (0, 1, 2, 0)
    names = set(growth.state(parent_of(config).state_dict()))
    assert "layers.2.attention.w_q" in names and "layers.1.attention.w_q" not in names


@pytest.mark.parametrize("name", ["moe behind dense", "biases", "shared"])
def test_identity_blocks_learn(name: str) -> None:
    """Their output projections see a gradient at once, all else of them from the second step on."""
    parent = parent_of(CONFIGS[name])
    child = child_of(insert_identity_blocks(parent.config, [0]), parent).train()
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(6))
    optimizer = torch.optim.SGD(child.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        next_token_loss(child(tokens), tokens).backward()
        new = child.layers[1]
        assert new.attention.w_o.grad is not None and new.attention.w_o.grad.any()
        assert new.attention.w_q.grad is not None and bool(new.attention.w_q.grad.any()) is (step == 1)
        optimizer.step()


def test_stacked_layers_are_copies_in_the_given_order_and_change_the_function() -> None:
    config = CONFIGS["moe behind dense"]
    parent = parent_of(config)
    growth = stack_layers(config, [0, 1, 2, 1, 2])
    child = child_of(growth, parent)
    assert not growth.preserves
    for place, source in enumerate([0, 1, 2, 1, 2]):
        assert torch.equal(child.layers[place].attention.w_o, parent.layers[source].attention.w_o)
        assert child.config.is_moe_layer(place) == config.is_moe_layer(source)
    assert (logits(child) - logits(parent)).abs().max() > 0.01
    by_hand = child_by_hand(parent, [0, 1, 2, 1, 2])
    assert torch.equal(logits(child)[0], by_hand)


@torch.no_grad()
def child_by_hand(parent: Transformer, order: list[int]) -> Tensor:
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(5))
    rotation, spans = parent.rotation_and_spans(tokens)
    x = torch.nn.functional.embedding(tokens, parent.embedding)
    for layer in order:
        block = parent.layers[layer]
        x = block(x, rotation, spans[block.window])
    return parent.logits(x)


def test_a_stack_that_is_the_parent_preserves() -> None:
    parent = parent_of(TINY)
    growth = stack_layers(TINY, [0, 1, 2])
    assert growth.preserves and torch.equal(logits(child_of(growth, parent)), logits(parent))
    assert not stack_layers(TINY, [1, 0, 2]).preserves


def test_what_cannot_be_grown_is_refused_with_its_reason() -> None:
    for after in ([3], [-1], [1, 1]):
        with pytest.raises(ConfigError, match="different layers from 0 to 2"):
            insert_identity_blocks(TINY, after)
    with pytest.raises(ConfigError, match="at least once"):
        stack_layers(TINY, [0, 1, 1])
    with pytest.raises(ConfigError, match="MTP modules"):
        stack_layers(CONFIGS["ahead"], [0, 2, 1])
