"""Shared weights exist once: in parameters, state dicts, files and counts; their gradients are the sum of all uses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.checkpoint import load_transformer, save_checkpoint
from model.config import LatentConfig, ModelConfig, MoEConfig
from model.layers.sharing import is_lent, unshare
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_tokens, random_transformer, relative_error, stepped
from tests.model.serving.speculation import plain_decoder

MOE = MoEConfig(d_model=24, d_expert=12, n_experts=4, top_k=2, n_shared=1)

CONFIGS = {
    "attention": replace(SMALL, n_layers=4, attention_owners=(0, 0, 2, 0)),
    "feed-forward": replace(SMALL, n_layers=4, ffn_owners=(0, 1, 1, 0), tie_embeddings=False),
    "all of a block": replace(SMALL, n_layers=3, attention_owners=(0, 0, 0), ffn_owners=(0, 0, 0)),
    "experts": replace(
        SMALL, n_layers=4, moe=MOE, first_moe_layer=1, attention_owners=(0, 1, 1, 3), ffn_owners=(0, 1, 1, 1)
    ),
    "latent attention": replace(
        SMALL,
        n_layers=3,
        latent=LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6),
        attention_owners=(0, 0, 2),
    ),
    "windows that differ": replace(
        SMALL,
        n_layers=4,
        sliding_window=3,
        full_attention_layers=(1, 3),
        attention_owners=(0, 0, 2, 2),
        ffn_owners=(0, 0, 2, 2),
    ),
}


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


def unshared(model: Transformer) -> Transformer:
    config, state = unshare(model.config, model.state_dict())
    copied = Transformer(config)
    copied.load_state_dict(state)
    return copied


def test_each_weight_is_stored_and_counted_once(config: ModelConfig) -> None:
    model = random_transformer(config)
    state = model.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == config.total_parameters
    assert sum(parameter.numel() for parameter in model.parameters()) == config.total_parameters
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    for layer, block in enumerate(model.layers):
        assert is_lent(block, "attention") == (config.attention_owner(layer) != layer)
        assert is_lent(block, "ffn") == (config.ffn_owner(layer) != layer)
        assert block.attention is model.layers[config.attention_owner(layer)].attention


def test_logits_equal_the_definition_and_the_unshared_copy(config: ModelConfig) -> None:
    model = random_transformer(config)
    tokens = random_tokens(config, 9)
    with torch.no_grad():
        logits = model(tokens[None])[0]
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
        x_SD = plain_decoder.hidden(config, state, tokens.tolist())
        expected = plain_decoder.logits(config, state, x_SD)
        copied = unshared(model)(tokens[None])[0]
    assert relative_error(logits, expected) < 1e-5
    assert torch.equal(copied, logits)


def test_gradients_are_the_sums_over_all_uses(config: ModelConfig) -> None:
    model = random_transformer(config)
    copied = unshared(model)
    assert copied.config.total_parameters > config.total_parameters
    tokens = random_tokens(config, 2, 12)
    for one in (model, copied):
        F.cross_entropy(one(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in copied.named_parameters()}
    for name, parameter in model.named_parameters():
        head, _, rest = name.partition(".")
        if head == "layers":
            layer, part, leaf = rest.split(".", 2)
            owners = {"attention": config.attention_owner, "ffn": config.ffn_owner}.get(part)
            users = [n for n in range(config.n_layers) if owners and owners(n) == int(layer)] or [layer]
            expected = sum(gradients[f"layers.{user}.{part}.{leaf}"] for user in users)
        else:
            expected = gradients[name]
        assert relative_error(parameter.grad, expected) < 1e-5, name


def test_cached_decode_keeps_a_past_for_each_layer(config: ModelConfig) -> None:
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 20)
    chunks = [6, 1, 1, 5, 1, 6]
    with torch.no_grad():
        expected = model(tokens[None])[0, torch.tensor(chunks).cumsum(0) - 1]
    assert relative_error(stepped(model, tokens.tolist(), chunks), expected) < 1e-5


def test_a_file_holds_shared_weights_once_and_loads(config: ModelConfig, tmp_path: Path) -> None:
    model = random_transformer(config).eval()
    save_checkpoint(tmp_path / "shared", config, model.state_dict(), metadata={}, files={})
    size = (tmp_path / "shared" / "model.safetensors").stat().st_size
    assert 4 * config.total_parameters < size < 4 * config.total_parameters + 20_000
    loaded = load_transformer(tmp_path / "shared")
    tokens = random_tokens(config, 1, 12)
    assert torch.equal(loaded(tokens), model(tokens).detach())
    half = load_transformer(tmp_path / "shared", torch.bfloat16)
    assert {parameter.dtype for parameter in half.layers.parameters()} == {torch.bfloat16}
    assert torch.isfinite(half(tokens)).all()


def test_copies_share_among_themselves_and_not_with_the_original(config: ModelConfig) -> None:
    model = random_transformer(config)
    copied = copy.deepcopy(model)
    tokens = random_tokens(config, 1, 5)
    before = model(tokens)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(tokens), before)
    assert all(
        block.attention is copied.layers[config.attention_owner(layer)].attention
        for layer, block in enumerate(copied.layers)
    )


def test_an_optimiser_moves_a_shared_weight_once(config: ModelConfig) -> None:
    model = random_transformer(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(random_tokens(config, 1, 6)).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, before[name] - 0.1 * parameter.grad, atol=1e-6), name


def test_tied_embeddings_get_the_gradients_of_both_ends() -> None:
    tied = random_transformer(SMALL)
    loose = Transformer(replace(SMALL, tie_embeddings=False))
    loose.load_state_dict({**tied.state_dict(), "head": tied.embedding.detach().clone()})
    tokens = random_tokens(SMALL, 2, 7)
    for model in (tied, loose):
        model(tokens).square().mean().backward()
    assert loose.head is not None
    assert relative_error(tied.embedding.grad, loose.embedding.grad + loose.head.grad) < 1e-5
    assert loose.head.grad.abs().max() > 0 < loose.embedding.grad.abs().max()
