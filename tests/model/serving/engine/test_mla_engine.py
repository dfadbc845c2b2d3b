"""The serving engine runs latent, windowed and shared layers: same tokens as the whole forward pass, smaller caches."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest
import torch

from model.config import LatentConfig, ModelConfig
from model.presets import PRESETS
from model.sampling import SamplingSettings
from model.serving.api.text import TextStream
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.engine import Engine, EngineLimits, Event, Finish, Generation
from model.serving.node.served import ServedModel, tiny
from tests.model.random_models import random_transformer

TIMEOUT_S = 240
PROMPT = b"a prompt longer than a chunk of tokens, so that reading it takes two steps. " * 2
N_TOKENS = 10

TINY = PRESETS["tiny"]
CONFIGS = {
    "latent": replace(TINY, latent=LatentConfig(kv_rank=24, d_nope=12, d_rope=8, d_value=12)),
    "windows": replace(TINY, n_layers=3, sliding_window=20, full_attention_layers=(1,)),
    "shared": replace(TINY, n_layers=3, attention_owners=(0, 0, 0), ffn_owners=(0, 1, 1)),
}


def served(config: ModelConfig) -> ServedModel:
    return replace(tiny(), transformer=random_transformer(config).requires_grad_(False).eval())


def finished(model: ServedModel, n_tokens: int) -> list[Event]:
    """A greedy generation from PROMPT, on an engine of its own over the transformer."""
    settings = SamplingSettings(temperature=0)
    generation = Generation(tuple(PROMPT), n_tokens, settings, ignore_stop_tokens=True)
    events: queue.Queue[Event] = queue.Queue()
    engine = Engine(model, EngineLimits(step_tokens=100), executor=TorchExecutor(model.transformer, 40))
    engine.start()
    try:
        engine.submit(generation, events.put)
        seen = [events.get(timeout=TIMEOUT_S)]
        while seen[-1].finish is None:
            seen.append(events.get(timeout=TIMEOUT_S))
    finally:
        engine.stop()
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_are_the_whole_forward_passes_argmax(name: str) -> None:
    model = served(CONFIGS[name])
    tokens = list(PROMPT)
    for _ in range(N_TOKENS):
        tokens.append(int(model.transformer(torch.tensor([tokens]))[0, -1].argmax()))
    stream = TextStream(model.tokenizer.token_bytes)
    expected = "".join(stream.push(token) for token in tokens[len(PROMPT) :]) + stream.finish()
    events = finished(model, N_TOKENS)
    assert events[-1].finish is Finish.LENGTH
    assert "".join(event.text for event in events) == expected
    assert len(set(tokens[len(PROMPT) :])) > 2  # a constant answer would compare nothing


def test_a_latent_sequence_holds_fewer_bytes() -> None:
    size = {
        name: TorchExecutor(served(config).transformer, 2).bytes_per_block
        for name, config in (("latent", CONFIGS["latent"]), ("heads", TINY))
    }
    assert size["latent"] / size["heads"] == (24 + 8) / (2 * TINY.n_kv_heads * TINY.d_head)
