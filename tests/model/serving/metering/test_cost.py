"""Work that step times are split by, the cache that fits a memory, the choice of executor, and the engine's overhead."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.presets import PRESETS
from model.serving.engine import overhead
from model.serving.executors import native as native_executor
from model.serving.executors.base import Part, on_host
from model.serving.executors.choice import blocks_within, default_executor
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.cost import PASS_TOKENS, StepCost
from model.serving.metering.generation import EngineLimits
from model.serving.speculation.mtp import AheadExecutor
from tests.model.random_models import SMALL, random_transformer
from tests.model.serving.executors.executor_steps import logits_of

COST = StepCost(per_token=100, per_key=3, per_logits=50)


def test_work_is_that_of_tokens_keys_logits_and_one_reading_of_the_weights() -> None:
    assert COST.work(1, 10, 1) == (1 + PASS_TOKENS) * 100 + 11 * 3 + 50
    assert COST.work(4, 0, 0) == (4 + PASS_TOKENS) * 100 + (1 + 2 + 3 + 4) * 3


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 200))
def test_chunks_cost_their_readings_of_the_weights_more_than_the_whole(
    first: int, second: int, past: int
) -> None:
    whole = COST.work(first + second, past, 1)
    chunks = COST.work(first, past, 0) + COST.work(second, past + first, 1)
    assert chunks - whole == PASS_TOKENS * COST.per_token


def test_costs_are_the_multiplications_of_the_shape() -> None:
    """Counted from the weight matrices of a real module, norms and biases beside."""
    cost = StepCost.of(SMALL)
    model = random_transformer(SMALL)
    matrices = sum(weight.numel() for weight in model.layers.parameters() if weight.ndim > 1)
    assert matrices < cost.per_token < matrices * 1.05
    assert cost.per_logits == SMALL.vocab_size * SMALL.d_model
    assert cost.per_key == SMALL.n_layers * 2 * SMALL.n_heads * SMALL.d_head


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_is_read_not_multiplied(tied: bool) -> None:
    assert StepCost.of(replace(SMALL, tie_embeddings=tied)) == StepCost.of(SMALL)


def test_only_the_chosen_experts_count_and_latents_cost_their_own_keys() -> None:
    moe = MoEConfig(d_model=SMALL.d_model, d_expert=16, n_experts=8, top_k=2)
    sparse = StepCost.of(replace(SMALL, moe=moe))
    dense = StepCost.of(replace(SMALL, moe=replace(moe, top_k=8)))
    assert dense.per_token - sparse.per_token == SMALL.n_layers * 6 * 3 * SMALL.d_model * 16
    latent = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6)
    assert StepCost.of(replace(SMALL, latent=latent)).per_key == SMALL.n_layers * SMALL.n_heads * (24 + 4)


def block_bytes(config: ModelConfig) -> int:
    return 16 * config.n_layers * config.n_kv_heads * 2 * config.d_head * 4


def test_blocks_fill_the_memory_given_but_no_more_than_contexts_can_use() -> None:
    size = block_bytes(SMALL)
    assert blocks_within(SMALL, 4, EngineLimits(max_cache_bytes=10 * size + size // 2)) == 10
    contexts = 4 * 2 * 19  # of 300 tokens each
    assert blocks_within(SMALL, 4, EngineLimits(max_running=2)) == contexts
    with pytest.raises(ValueError, match=rf"\({size} bytes\): give the node more with --cache-gib"):
        blocks_within(SMALL, 4, EngineLimits(max_cache_bytes=size - 1))


def test_without_compiled_kernels_torch_computes_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_executor, "supports", lambda config: "no compiler here")
    executor = default_executor(random_transformer(SMALL), EngineLimits())
    assert isinstance(executor, TorchExecutor)
    assert "no compiler here" in caplog.text


def test_plain_torch_drafts_with_prediction_modules_within_the_memory_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_executor, "supports", lambda config: "no compiler here")
    model = random_transformer(replace(SMALL, n_ahead=2))
    limits = EngineLimits(max_cache_bytes=100_000)
    drafting = default_executor(model, limits)
    assert isinstance(drafting, AheadExecutor)
    assert (
        0 <= limits.max_cache_bytes - drafting.n_blocks * drafting.bytes_per_block < drafting.bytes_per_block
    )
    assert type(default_executor(model, replace(limits, max_drafts=0))) is TorchExecutor


def test_a_precision_without_kernels_is_computed_by_torch(caplog: pytest.LogCaptureFixture) -> None:
    executor = default_executor(random_transformer(SMALL).double(), EngineLimits())
    assert isinstance(executor, TorchExecutor)
    assert "float64" in caplog.text


def test_logits_reach_samplers_in_single_precision_whatever_the_model_computes_in() -> None:
    double = default_executor(random_transformer(SMALL).double(), EngineLimits())
    assert double.step([Part(TOKENS[:5], 0, [0])]).dtype == np.float32
    row_V = torch.tensor([0.5, 3.0], dtype=torch.bfloat16, requires_grad=True)
    assert on_host(row_V).dtype == np.float32 and on_host(row_V).tolist() == [0.5, 3.0]


def executor(n_blocks: int = 6) -> TorchExecutor:
    return TorchExecutor(random_transformer(SMALL).requires_grad_(False).eval(), n_blocks)


TOKENS = [index * 7 % 53 for index in range(40)]


def test_neighbouring_and_scattered_blocks_give_the_same_logits() -> None:
    found = []
    for blocks in ([0, 1, 2], [5, 0, 3]):
        paged = executor()
        paged.step([Part(TOKENS[:21], 0, blocks, 0)])
        paged.step([Part(TOKENS[21:39], 21, blocks, 2)])
        found.append(logits_of(paged, [Part(TOKENS[39:], 39, blocks)]))
    assert torch.equal(*found)


def test_logits_are_of_the_last_tokens_asked_for() -> None:
    model = random_transformer(SMALL).requires_grad_(False).eval()
    whole = model(torch.tensor([TOKENS]))[0]
    parts = [Part(TOKENS, 0, [0, 1, 2], 3), Part(TOKENS[:5], 0, [3], 0), Part(TOKENS[:9], 0, [4])]
    torch.testing.assert_close(logits_of(executor(), parts), whole[[37, 38, 39, 8]], atol=1e-5, rtol=0)
    assert executor().step([Part(TOKENS[:5], 0, [3], 0)]).shape == (0, SMALL.vocab_size)


def test_a_copied_block_goes_its_own_way() -> None:
    paged = executor()
    paged.step([Part(TOKENS[:20], 0, [0, 1], 0)])
    paged.copy_block(1, 4)
    paged.step([Part([50], 20, [0, 4])])
    after_copy = logits_of(paged, [Part(TOKENS[20:21], 20, [0, 1])])
    plain = executor()
    plain.step([Part(TOKENS[:20], 0, [0, 1], 0)])
    assert torch.equal(after_copy, logits_of(plain, [Part(TOKENS[20:21], 20, [0, 1])]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(TOKENS[:17], 0, [0]), "17 tokens do not fit into 1 blocks"),
        (Part([1], 0, [0], 2), "2 logits are asked for after 1 new"),
        (Part([], 0, [0], 0), "new tokens"),
    ],
)
def test_impossible_parts_are_refused(part: Part, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        executor().step([part])


def test_the_overhead_command_reports_medians(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(["--running", "3", "--steps", "5", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["n_running"], found["n_steps"]) == (3, 5)
    assert 0 < found["scheduling_us"] < found["whole_us"]
    overhead.main(["--running", "2", "--steps", "2"])
    assert "2 answers, 2 steps" in capsys.readouterr().out
    overhead.main(["--running", "257", "--steps", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["n_running"] == 257
    with pytest.raises(SystemExit):
        overhead.main(["--running", "0"])


def test_the_tiny_model_has_room_for_its_whole_context() -> None:
    tiny = PRESETS["tiny"]
    assert blocks_within(tiny, 4, EngineLimits()) * 16 >= 16 * tiny.max_context
