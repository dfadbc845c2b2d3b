"""Small random models whose every parameter matters: norms and biases away from one and zero, logits of a real size."""

from __future__ import annotations

import torch

from model.config import ModelConfig
from model.serving.engine.cache import SequenceCache
from model.transformer import Transformer

SMALL = ModelConfig(
    name="small",
    vocab_size=53,
    d_model=24,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_ff=40,
    max_context=300,
    rope_theta=500.0,
)


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)


def random_transformer(config: ModelConfig, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config)
    randomise(model)
    model.embedding.data *= 2
    return model


def random_tokens(config: ModelConfig, *shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def stepped(model: Transformer, tokens: list[int], chunks: list[int]) -> torch.Tensor:
    """Logits [len(chunks), V] after each chunk, read through a cache."""
    cache, start, rows = SequenceCache(model.config, model.dtype, model.device), 0, []
    for n_tokens in chunks:
        rows.append(model.step([(cache, tokens[start : start + n_tokens])])[0])
        cache.advance(n_tokens)
        start += n_tokens
    return torch.stack(rows)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest expected value."""
    return float(
        (found.detach().double() - expected.detach().double()).abs().max() / expected.detach().abs().max()
    )
