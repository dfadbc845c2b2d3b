"""The same seed and prompt give the same tokens alone and in any batch, early or late, preempted or speculating.

On the compiled executor, whose rows do not depend on each other: bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from model.config import ModelConfig, MoEConfig
from model.sampling import SamplingSettings
from model.serving.executors.native import NativeExecutor
from model.serving.executors.packed import Weights
from model.serving.metering.core import EngineCore
from model.serving.metering.generation import EngineLimits, Event, Generation
from model.serving.metering.job import Job
from model.serving.node.served import ServedModel, tiny
from model.serving.speculation.choice import proposers
from tests.model.random_models import SMALL, random_transformer

MOE = replace(SMALL, moe=MoEConfig(d_model=SMALL.d_model, d_expert=20, n_experts=6, top_k=2, n_shared=1))
N_TOKENS = 20
Answer = list[tuple[int, float | None]]


def served(config: ModelConfig) -> ServedModel:
    return replace(tiny(), transformer=random_transformer(config).requires_grad_(False).eval())


def wanted() -> list[Generation]:
    """Prompts of many lengths that share beginnings, greedy and sampled ones, one with three answers."""
    draw = random.Random(8)
    shared = [draw.randrange(53) for _ in range(40)]
    generations = []
    for seed in range(8):
        prompt = (
            *shared[: draw.randrange(1, 40)],
            *(draw.randrange(53) for _ in range(draw.randrange(1, 30))),
        )
        sampling = SamplingSettings(temperature=0 if seed % 3 == 0 else 1, seed=seed, logprobs=0)
        generations.append(
            Generation(prompt, N_TOKENS, sampling, ignore_stop_tokens=True, n=3 if seed == 5 else 1)
        )
    return generations


def core_of(model: ServedModel, weights: Weights, limits: EngineLimits, n_blocks: int = 200) -> EngineCore:
    return EngineCore(model, limits, NativeExecutor(model.transformer, n_blocks, weights=weights))


def answers(core: EngineCore, generations: Sequence[Generation], every: int = 0) -> list[list[Answer]]:
    """What each was answered, token and log probability; a new one arrives after `every` steps."""
    heard: list[list[Event]] = [[] for _ in generations]
    for generation, events in zip(generations, heard, strict=True):
        core.add(Job(core.served, generation, events.append, 0))
        for _ in range(every):
            core.step()
    while core.has_work:
        core.step()
    return [
        [
            [
                (e.chosen.token, e.chosen.logprob)
                for e in events
                if e.answer == answer and e.chosen is not None
            ]
            for answer in range(generation.n)
        ]
        for generation, events in zip(generations, heard, strict=True)
    ]


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("config", [SMALL, MOE], ids=["dense", "moe"])
def test_company_changes_nothing(config: ModelConfig, weights: Weights) -> None:
    model, generations = served(config), wanted()
    alone = [answers(core_of(model, weights, EngineLimits()), [generation])[0] for generation in generations]
    assert len({tuple(answer[0]) for answer in alone}) == len(alone)
    crowded = core_of(model, weights, EngineLimits(max_running=6, step_tokens=19))
    assert answers(crowded, generations, every=3) == alone
    assert answers(crowded, generations) == alone  # behind prefixes that are found
    assert crowded.stats.cached_tokens > 0
    narrow = core_of(model, weights, EngineLimits(max_running=6, step_tokens=40), n_blocks=9)
    assert answers(narrow, generations) == alone
    assert narrow.scheduler.n_preemptions > 0
    guessing = core_of(model, weights, EngineLimits(max_running=4, step_tokens=64))
    guessing.make_proposer = proposers(guessing.executor)
    assert answers(guessing, generations) == alone
    assert guessing.stats.n_accepted > 0
