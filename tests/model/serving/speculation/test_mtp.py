"""Drafts of prediction modules equal their definition, whatever steps, rejections and other answers came before."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.sampling import Sampler, SamplingSettings
from model.serving.executors.base import Part
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.speculation.choice import proposers
from model.serving.speculation.mtp import AheadExecutor, MTPProposer
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_transformer, relative_error
from tests.model.serving.executors.executor_steps import logits_of

MOE = MoEConfig(d_model=24, d_expert=12, n_experts=4, top_k=2, n_shared=1)
LATENT = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6)
CONFIGS = {
    "dense": replace(SMALL, n_ahead=2),
    "three modules, untied": replace(SMALL, n_ahead=3, tie_embeddings=False),
    "experts and latent attention": replace(SMALL, n_ahead=2, moe=MOE, latent=LATENT, first_moe_layer=1),
    "window": replace(SMALL, n_ahead=2, sliding_window=6),
}
BLOCK_TOKENS = 4
BLOCKS = [5, 2, 9, 0, 7, 3, 8, 6]  # out of order: paged


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


class Recorder:
    """Guesses the likeliest token and keeps the logits that it saw."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, logits_V: NDArray[np.float32], ahead: int) -> int:
        assert ahead == len(self.logits)
        self.logits.append(torch.from_numpy(logits_V))
        return int(logits_V.argmax())


def drafted(
    executor: AheadExecutor, tokens: Sequence[int], n: int, blocks: Sequence[int] = BLOCKS
) -> tuple[list[int], list[Tensor]]:
    recorder = Recorder()
    return executor.draft(tokens, blocks, n, recorder), recorder.logits


def expected_logits(model: Transformer, tokens: list[int], drafts: list[int]) -> list[Tensor]:
    """Whole sequences, without any cache: module i at the last computed position, behind the drafts before it."""
    computed = len(tokens) - 1
    rows = torch.tensor([[*tokens, *drafts]])
    with torch.no_grad():
        all_logits = model.mtp_logits(model.hidden(rows), rows)
    return [logits[0, computed - 1] for logits in all_logits]


def random_ids(n: int, seed: int = 1) -> list[int]:
    chooser = random.Random(seed)
    return [chooser.randrange(SMALL.vocab_size) for _ in range(n)]


def test_drafts_equal_the_definition_through_steps_and_rejections(config: ModelConfig) -> None:
    model = random_transformer(config).eval()
    executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
    tokens = random_ids(24)
    executor.step([Part(tokens[:5], 0, BLOCKS, 0), Part(random_ids(3, 9), 0, [1], 1)])
    executor.step([Part(tokens[5:7], 5, BLOCKS, 1)])
    computed = 7
    while computed < 22:
        known = tokens[: computed + 1]
        drafts, logits = drafted(executor, known, 3)
        assert len(drafts) == config.n_ahead
        for found, expected in zip(logits, expected_logits(model, known, drafts), strict=True):
            assert relative_error(found, expected) < 1e-4
        executor.step([Part([known[-1], *drafts], computed, BLOCKS, 1 + len(drafts))])
        computed += 1 + computed % 2  # as if none, or the first, of the drafts had been right
        if computed % 3 == 0:  # the text goes on otherwise than drafted: those positions are computed again
            executor.step([Part(tokens[computed - 1 : computed], computed - 1, BLOCKS, 1)])
        executor.step([Part(tokens[computed - 2 : computed], computed - 2, BLOCKS, 1)])


def test_only_what_has_changed_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_transformer(CONFIGS["dense"]).eval()
    executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
    tokens = random_ids(20)
    executor.step([Part(tokens[:16], 0, BLOCKS, 1)])
    lengths: list[int] = []
    inner = model.mtp_step

    def counted(depth: int, x_TD: Tensor, joined: Sequence[int], store: object) -> tuple[Tensor, Tensor]:
        lengths.append(len(joined))
        return inner(depth, x_TD, joined, store)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "mtp_step", counted)
    drafted(executor, tokens[:17], 2)
    executor.step([Part(tokens[16:17], 16, BLOCKS, 1)])
    drafted(executor, tokens[:18], 2)
    drafted(executor, tokens[:18], 1)
    assert lengths == [16, 16, 2, 2, 1]


def test_an_answer_that_shares_blocks_gets_drafts_of_its_own() -> None:
    model = random_transformer(CONFIGS["dense"]).eval()
    executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
    shared = random_ids(8)
    executor.step([Part(shared, 0, BLOCKS, 1)])
    one, other = [*shared, 3], [*shared, 11]
    for tokens in (one, other, one):
        drafts, logits = drafted(executor, tokens, 2)
        for found, expected in zip(logits, expected_logits(model, tokens, drafts), strict=True):
            assert relative_error(found, expected) < 1e-4


def test_a_copied_block_carries_its_entries() -> None:
    model = random_transformer(CONFIGS["dense"]).eval()
    executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
    tokens = random_ids(7)
    executor.step([Part(tokens[:6], 0, BLOCKS, 1)])
    before, _ = drafted(executor, tokens, 2)
    executor.copy_block(BLOCKS[1], 4)
    executor.step([Part(random_ids(3, 5), 4, BLOCKS, 1)])  # the original goes on otherwise
    found, logits = drafted(executor, tokens, 2, [BLOCKS[0], 4])
    assert found == before
    for row, expected in zip(logits, expected_logits(model, tokens, found), strict=True):
        assert relative_error(row, expected) < 1e-4


def test_decoding_with_modules_leaves_the_answer_as_it_is() -> None:
    model = random_transformer(CONFIGS["dense"]).eval()
    for settings in (SamplingSettings(temperature=0), SamplingSettings(seed=3, temperature=0.8)):
        answers = []
        for n_drafts in (0, 2):
            executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
            sampler = Sampler(settings)
            proposer = MTPProposer(executor, lambda: BLOCKS, sampler.draft_token)
            tokens = random_ids(6)
            executor.step([Part(tokens[:5], 0, BLOCKS, 0)])
            computed = 5
            while len(tokens) < 26:
                drafts = proposer.propose(tokens, n_drafts)
                logits = executor.step([Part([tokens[-1], *drafts], computed, BLOCKS, 1 + len(drafts))])
                found = sampler.verify(logits, drafts)
                tokens += [chosen.token for chosen in found]
                computed += len(found)
            answers.append(tokens[:26])
        assert answers[0] == answers[1]


def test_an_engine_uses_the_modules_where_they_are_computed() -> None:
    executor = AheadExecutor(random_transformer(CONFIGS["dense"]).eval(), 10, block_tokens=BLOCK_TOKENS)
    tokens = list(range(10))  # nothing to look up
    executor.step([Part(tokens[:9], 0, BLOCKS, 1)])
    sampler = Sampler(SamplingSettings(temperature=0))
    by_modules = proposers(executor)(sampler, lambda: BLOCKS)
    assert by_modules.propose(tokens, 2) == drafted(executor, tokens, 2)[0]
    assert proposers()(sampler, lambda: BLOCKS).propose(tokens, 2) == []


def test_steps_compute_what_the_plain_executor_computes(config: ModelConfig) -> None:
    model = random_transformer(config).eval()
    executor = AheadExecutor(model, 10, block_tokens=BLOCK_TOKENS)
    tokens = random_ids(12)
    rows = logits_of(executor, [Part(tokens[:9], 0, BLOCKS, 2), Part(tokens[:3], 0, [1], 0)])
    with torch.no_grad():
        assert relative_error(rows, model(torch.tensor([tokens[:9]]))[0, -2:]) < 1e-4


@pytest.mark.parametrize("cast", [Transformer.double, Transformer.bfloat16], ids=["fp64", "bf16"])
def test_models_of_one_other_precision_are_stepped_and_drafted(
    cast: Callable[[Transformer], Transformer],
) -> None:
    model = cast(random_transformer(CONFIGS["dense"])).eval()
    executor, plain = AheadExecutor(model, 4), TorchExecutor(model, 4)
    part = Part([1, 2, 3, 4], 0, [2])
    assert torch.equal(logits_of(executor, [part]), logits_of(plain, [part]))
    assert len(drafted(executor, [1, 2, 3, 4, 5], 2, [2])[0]) == 2
    kept = (executor._keys, executor._values, executor._mtp_keys, executor._mtp_values, executor._joined)
    streams_bytes = executor._streams_SD.nbytes
    assert executor.bytes_per_block * 4 == sum(memory.nbytes for memory in kept) + streams_bytes


def test_nothing_is_drafted_without_a_past_or_room() -> None:
    executor = AheadExecutor(random_transformer(CONFIGS["dense"]), 10, block_tokens=BLOCK_TOKENS)
    assert drafted(executor, [3], 2)[0] == []
    executor.step([Part([3], 0, BLOCKS, 1)])
    assert drafted(executor, [3, 4], 0)[0] == []
    assert len(drafted(executor, [3, 4], 1)[0]) == 1


def test_a_model_without_modules_is_refused_and_memory_is_counted() -> None:
    with pytest.raises(ValueError, match="no MTP modules"):
        AheadExecutor(random_transformer(SMALL), 10)
    executor = AheadExecutor(random_transformer(CONFIGS["dense"]), 10, block_tokens=BLOCK_TOKENS)
    per_token = 4 * 2 * 2 * 2 * SMALL.d_head * 2 + 4 * SMALL.d_model + 8 * 2  # 2 layers and 2 modules
    assert executor.bytes_per_block == BLOCK_TOKENS * per_token
