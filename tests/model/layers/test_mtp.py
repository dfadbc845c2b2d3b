"""Multi-token prediction equals its definition, looks exactly as far ahead as it may, and trains the whole model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from model.config import LatentConfig, ModelConfig, MoEConfig
from tests.model.random_models import SMALL, random_tokens, random_transformer, relative_error, stepped
from tests.model.serving.speculation import plain_decoder

MOE = MoEConfig(d_model=24, d_expert=12, n_experts=4, top_k=2, n_shared=1)
LATENT = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6)

CONFIGS = {
    "dense": replace(SMALL, n_ahead=2),
    "one module, untied": replace(SMALL, n_ahead=1, tie_embeddings=False),
    "experts and latent attention": replace(SMALL, n_ahead=2, moe=MOE, latent=LATENT, first_moe_layer=1),
    "last layer dense and windowed": replace(SMALL, n_ahead=1, moe=MOE, dense_layers=(1,), sliding_window=4),
    "beside shared layers": replace(SMALL, n_ahead=2, attention_owners=(0, 0), ffn_owners=(0, 0)),
}
N_TOKENS = 12


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


def test_logits_equal_the_definition(config: ModelConfig) -> None:
    model = random_transformer(config)
    tokens_BS = random_tokens(config, 2, N_TOKENS)
    with torch.no_grad():
        found = model.mtp_logits(model.hidden(tokens_BS), tokens_BS)
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    assert [tuple(logits.shape) for logits in found] == [(2, N_TOKENS, config.vocab_size)] * config.n_ahead
    for row, tokens in enumerate(tokens_BS.tolist()):
        x_SD = plain_decoder.hidden(config, state, tokens)
        expected = plain_decoder.mtp_logits(config, state, x_SD, tokens)
        for depth, logits in enumerate(expected):
            assert relative_error(found[depth][row, : len(logits)], logits) < 2e-5, depth


def test_module_i_knows_the_tokens_up_to_i_plus_one_ahead_and_no_further(config: ModelConfig) -> None:
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 1, N_TOKENS)
    changed_at = 7
    other = tokens.clone()
    other[0, changed_at] = (other[0, changed_at] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = (model.mtp_logits(model.hidden(row), row) for row in (tokens, other))
    for depth in range(config.n_ahead):
        moved = (before[depth] - after[depth]).abs().amax(-1)[0]
        first_that_knows = changed_at - (depth + 1)
        assert moved[:first_that_knows].max() <= 1e-5
        assert moved[first_that_knows] > 1e-4
        # where nothing follows, the row's own beginning is in: no valid position may see it
    wrapped = tokens.clone()
    wrapped[0, 0] = (wrapped[0, 0] + 1) % config.vocab_size
    hidden = model.hidden(tokens)
    with torch.no_grad():
        kept, touched = model.mtp_logits(hidden, tokens), model.mtp_logits(hidden, wrapped)
    for depth in range(config.n_ahead):
        moved = (kept[depth] - touched[depth]).abs().amax(-1)[0]
        assert moved[: N_TOKENS - 1 - depth].max() <= 1e-5 < moved[N_TOKENS - 1 - depth]


def test_packed_documents_equal_each_document_alone() -> None:
    config = CONFIGS["dense"]
    model = random_transformer(config)
    lengths = [5, 7]
    tokens = random_tokens(config, 1, sum(lengths))
    places = {
        "documents_BS": torch.cat([torch.full((n,), n) for n in lengths])[None],
        "positions_BS": torch.cat([torch.arange(n) for n in lengths])[None],
    }
    with torch.no_grad():
        packed = model.mtp_logits(model.hidden(tokens, **places), tokens, **places)
        start = 0
        for part in tokens.split(lengths, dim=1):
            alone = model.mtp_logits(model.hidden(part), part)
            for depth, logits in enumerate(alone):
                valid = part.shape[1] - (depth + 2)
                assert torch.allclose(
                    packed[depth][:, start : start + valid], logits[:, :valid], atol=1e-5, rtol=1e-5
                )
            start += part.shape[1]


def test_gradients_reach_every_parameter_and_equal_the_definitions(config: ModelConfig) -> None:
    model = random_transformer(config)
    tokens = random_tokens(config, 1, N_TOKENS)
    loss = torch.zeros(())
    for depth, logits in enumerate(model.mtp_logits(model.hidden(tokens), tokens)):
        loss = loss + logits[:, : N_TOKENS - 1 - depth].square().mean()
    loss.backward()
    state = plain_decoder.doubled(model.state_dict())
    x_SD = plain_decoder.hidden(config, state, tokens[0].tolist())
    expected = plain_decoder.mtp_logits(config, state, x_SD, tokens[0].tolist())
    sum(logits.square().mean() for logits in expected).backward()
    for name, parameter in model.named_parameters():
        if name == "norm.weight":  # the transformer's own last norm is not on the way
            assert parameter.grad is None
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert relative_error(parameter.grad, state[name].grad) < 5e-5, name


def test_blocks_are_cast_and_the_residual_stream_is_not(config: ModelConfig) -> None:
    model = random_transformer(config)
    tokens = random_tokens(config, 1, N_TOKENS)
    with torch.no_grad():
        expected = model.mtp_logits(model.hidden(tokens), tokens)
        cast = copy.deepcopy(model).cast_blocks(torch.bfloat16)
        found = cast.mtp_logits(cast.hidden(tokens), tokens)
    module = cast.ahead[0]
    assert module.w_join.dtype == module.block.attention.w_o.dtype == torch.bfloat16
    assert module.norm.weight.dtype == found[0].dtype == torch.float32
    if config.moe is None:  # a token near a router's boundary may change experts
        assert relative_error(found[0][:, :-1], expected[0][:, :-1]) < 0.1


def test_serving_ignores_the_modules(config: ModelConfig) -> None:
    model = random_transformer(config).eval()
    tokens = random_tokens(config, 1, N_TOKENS)
    logits = stepped(model, tokens[0].tolist(), [5, 1, 6])
    with torch.no_grad():
        assert relative_error(logits[-1], model(tokens)[0, -1]) < 1e-5
    plain = replace(config, n_ahead=0)
    assert config.active_parameters == plain.active_parameters
    assert config.total_parameters > plain.total_parameters
