"""Captured decode steps: which size a step takes, what padding may do, and that answers are the plain ones.

What is captured runs here each time again, in the same tensors; capturing itself needs a CUDA device.
"""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import LatentConfig, ModelConfig, MoEConfig, RopeScaling
from model.layers.moe.experts import apply_experts
from model.layers.moe.layer import moe_layers
from model.serving.engine.blocks import GONE
from model.serving.engine.cache import widest_window
from model.serving.engine.expert_load import RouterListener, expert_load_of
from model.serving.executors.accelerated import accelerated_executor
from model.serving.executors.base import Part
from model.serving.executors.choice import BLOCK_TOKENS
from model.serving.executors.cuda_graphs import (
    CaptureSizes,
    GraphedExecutor,
    next_size,
    product_refusal,
    refusal,
)
from model.serving.executors.cuda_graphs_step import DecodeInputs, capturable_experts
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.generation import EngineLimits
from model.serving.offload.layout import Layout, spread
from tests.model.random_models import SMALL, random_transformer, relative_error
from tests.model.serving.engine.paged_steps import Sequences, served_mix
from tests.model.serving.executors.captured_each_time import EachTime
from tests.model.serving.executors.executor_steps import logits_of
from tests.needs_torch import needs_cuda

CPU = torch.device("cpu")
QWEN = dataclasses.replace(
    SMALL,
    name="qwen3-moe",
    qk_norm="head",
    moe=MoEConfig(d_model=24, d_expert=16, n_experts=8, top_k=3, n_shared=1),
)
WINDOWED = dataclasses.replace(
    SMALL,
    name="windowed",
    n_layers=3,
    qkv_bias=True,
    output_bias=True,
    sliding_window=6,
    full_attention_layers=(1,),
    attention_owners=(0, 1, 0),
)
FORGETFUL = dataclasses.replace(WINDOWED, name="windows everywhere", full_attention_layers=())
DYNAMIC = dataclasses.replace(
    SMALL, name="dynamic", rope_scaling=RopeScaling("dynamic", factor=2.0, original_context=8)
)
LATENT = dataclasses.replace(SMALL, latent=LatentConfig(kv_rank=12, d_nope=8, d_rope=4, d_value=8))
CAPTURE_SIZES = CaptureSizes(rows=(1, 4, 8), tokens=(8, 64))


def graphed(config: ModelConfig, capture: EachTime, n_blocks: int = 24) -> GraphedExecutor:
    model = random_transformer(config).eval()
    return GraphedExecutor(model, n_blocks, block_tokens=4, capture_sizes=CAPTURE_SIZES, capture=capture)


@pytest.mark.parametrize(
    "config", [SMALL, QWEN, WINDOWED, FORGETFUL, DYNAMIC], ids=lambda config: config.name
)
def test_captured_steps_give_the_answers_of_plain_ones(config: ModelConfig) -> None:
    capture = EachTime()
    plain = TorchExecutor(random_transformer(config).eval(), 24, block_tokens=4)
    expected, expected_tokens = served_mix(plain, config.vocab_size)
    window = widest_window(config)
    logits, tokens = served_mix(graphed(config, capture), config.vocab_size, window=window)
    assert tokens == expected_tokens
    for found, reference in zip(logits, expected, strict=True):
        assert found.shape == reference.shape
        if len(reference):
            assert relative_error(found, reference) < 1e-5
    assert capture.n_replayed == 7  # all of its steps that are plain decoding
    assert capture.n_captured == 1


def test_each_size_is_captured_once_and_may_be_captured_before() -> None:
    capture = EachTime()
    executor = graphed(SMALL, capture)
    executor.prepare()
    assert capture.n_captured == executor.n_graphs == 6
    sequences = Sequences(executor, SMALL.vocab_size)
    for n_rows in (1, 2, 4, 3, 6, 1):
        executor.step([sequences.part(row, [row + 1]) for row in range(n_rows)])
    assert (capture.n_captured, capture.n_replayed) == (6, 6)


def test_longer_steps_and_sequences_than_the_largest_size_are_not_captured() -> None:
    capture = EachTime()
    executor = graphed(SMALL, capture, n_blocks=60)
    sequences = Sequences(executor, SMALL.vocab_size)
    assert executor.step([sequences.part(row, [row + 1]) for row in range(9)]).shape == (9, SMALL.vocab_size)
    executor.step([sequences.part(0, sequences.random_tokens(63), 0)])
    executor.step([sequences.part(0, [1])])
    assert capture.n_captured == 0
    executor.step([sequences.part(1, [1])])
    assert capture.n_captured == 1


def test_padding_leaves_every_block_of_the_engine_alone() -> None:
    executor = graphed(SMALL, EachTime())
    executor._keys.fill_(7)
    executor._values.fill_(7)
    executor.step([Part([3], 0, [5]), Part([4], 0, [2]), Part([4], 0, [9])])  # a row of four is padding
    written = {5: 1, 2: 1, 9: 1}
    for block in range(24):
        n_slots = int((executor._keys[0, 0, block * 4 : block * 4 + 4] != 7).any(-1).sum())
        assert n_slots == written.get(block, 0), block


def test_what_was_never_written_does_not_come_in() -> None:
    executor = graphed(SMALL, EachTime())
    executor._keys.fill_(torch.nan)
    executor._values.fill_(torch.nan)
    assert logits_of(executor, [Part([3], 0, [5]), Part([4], 0, [2, 3]), Part([4], 0, [9])]).isfinite().all()


def test_what_was_given_back_does_not_come_in() -> None:
    executor = graphed(FORGETFUL, EachTime())
    executor._keys.fill_(torch.nan)
    executor._values.fill_(torch.nan)
    for position in range(9):
        executor.step([Part([1], position, [5, 2, 7])])
    kept = logits_of(executor, [Part([1], 9, [5, 2, 7])])
    assert torch.equal(logits_of(executor, [Part([1], 9, [GONE, 2, 7])]), kept)
    assert kept.isfinite().all()


def test_rows_do_not_depend_on_what_lay_in_a_graph_before() -> None:
    executor = graphed(QWEN, EachTime())
    part = Part([3], 0, [5])
    alone = logits_of(executor, [part, Part([1], 0, [1])])
    executor.step([Part([9], 3, [8]), Part([8], 2, [7]), Part([7], 1, [6]), Part([6], 0, [4])])
    assert torch.equal(logits_of(executor, [part, Part([1], 0, [1])]), alone)


def test_a_step_that_does_not_fit_its_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        graphed(SMALL, EachTime()).step([Part([3], 4, [5])])


# -- sizes ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True), st.integers(0, 120))
def test_the_next_size_is_the_smallest_that_holds_all(sizes: list[int], n: int) -> None:
    ascending = sorted(sizes)
    found = next_size(n, ascending)
    if found is None:
        assert n > ascending[-1]
    else:
        assert n <= found and not any(n <= size < found for size in ascending)


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([Part([1], 0, [0])], (1, 8)),
        ([Part([1], 7, [0]), Part([1], 3, [0])], (4, 8)),
        ([Part([1], 8, [0])], (1, 64)),
        ([Part([1], 64, [0])], None),
        ([Part([1, 2], 0, [0])], None),
        ([Part([1], 0, [0]), Part([1], 0, [0], n_logits=0)], None),
        ([Part([1], 0, [0])] * 9, None),
        ([], None),
    ],
)
def test_only_plain_decoding_has_a_size(parts: list[Part], size: tuple[int, int] | None) -> None:
    assert CAPTURE_SIZES.size(parts) == size


@pytest.mark.parametrize("sizes", [(), (2, 1), (1, 1), (0, 1)])
def test_sizes_that_do_not_ascend_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        CaptureSizes(rows=sizes)


def test_inputs_keep_their_memory() -> None:
    inputs = DecodeInputs(3, 2, spare_block=9, device=CPU)
    before = inputs.tokens_B.data_ptr(), inputs.blocks_BJ.data_ptr()
    inputs.fill([Part([5], 6, [1, 2, 3, 4])])  # the engine may have given more blocks than the size reads
    assert (inputs.tokens_B.data_ptr(), inputs.blocks_BJ.data_ptr()) == before
    assert inputs.tokens_B.tolist() == [5, 0, 0]
    assert inputs.past_B.tolist() == [6, 0, 0]
    assert inputs.blocks_BJ.tolist() == [[1, 2], [9, 9], [9, 9]]


@pytest.mark.parametrize(
    ("most_rows", "most_tokens", "rows", "tokens"),
    [
        (1, 100, (1,), (100,)),
        (16, 4096, (1, 2, 4, 8, 16), (256, 1024, 4096)),
        (10, 300, (1, 2, 4, 8, 10), (256, 300)),
        (300, 100_000, (1, 2, 4, 8, 16, 32, 64), (256, 1024, 4096, 16_384)),
    ],
)
def test_sizes_end_where_no_step_reaches(
    most_rows: int, most_tokens: int, rows: tuple[int, ...], tokens: tuple[int, ...]
) -> None:
    assert CaptureSizes.within(most_rows, most_tokens, 9) == CaptureSizes(rows, tokens, 9)


def test_there_is_no_size_whose_copy_is_larger_than_allowed() -> None:
    capture_sizes = CaptureSizes(rows=(1, 4, 8), tokens=(8, 64), most_slots=64)
    assert capture_sizes.sizes == [(1, 64), (8, 8), (4, 8), (1, 8)]
    assert capture_sizes.size([Part([1], 7, [0])] * 8) == (8, 8)
    assert capture_sizes.size([Part([1], 8, [0])] * 2) is None


# -- experts ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_experts_without_counts_on_the_host_equal_the_usual_ones(
    n_tokens: int, top_k: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weights = torch.randn(n_tokens, 16), torch.rand(n_tokens, top_k)
    chosen = torch.rand(n_tokens, 6).topk(top_k).indices
    stacks = torch.randn(6, 8, 16), torch.randn(6, 8, 16), torch.randn(6, 16, 8)
    expected = apply_experts(x, weights, chosen, *stacks)
    assert torch.allclose(capturable_experts(x, weights, chosen, *stacks), expected, atol=1e-4)


def test_prompts_keep_the_layers_own_function() -> None:
    executor = graphed(QWEN, EachTime())
    executor.prepare([(1, 8)])
    for layer in moe_layers(executor.transformer).values():
        assert layer.experts.apply_experts is apply_experts


@pytest.mark.parametrize("config", [QWEN, WINDOWED], ids=lambda config: config.name)
def test_each_experts_pairs_are_counted_in_captured_and_plain_steps_without_padding(
    config: ModelConfig,
) -> None:
    executor = graphed(config, EachTime())
    executor.prepare()  # warming up counts nothing
    counted = expert_load_of(executor, executor.transformer)
    listened = RouterListener(random_transformer(config).eval(), every=1)
    assert counted.load() == [[0] * len(load) for load in listened.load()]
    served_mix(executor, config.vocab_size)
    plain = random_transformer(config).eval()
    listened = RouterListener(plain, every=1)
    served_mix(TorchExecutor(plain, 24, block_tokens=4), config.vocab_size)
    assert counted.load() == listened.load()
    assert counted.every == 1 and counted.n_counted == executor.n_steps > 7


# -- the executor of a model on a device ------------------------------------------------------------


def test_an_accelerators_model_has_every_graph_that_its_limits_need_before_it_serves() -> None:
    capture = EachTime()
    limits = EngineLimits(max_running=6, max_cache_bytes=1 << 20)
    executor = accelerated_executor(random_transformer(QWEN).eval(), limits, capture=capture)
    assert isinstance(executor, GraphedExecutor)
    assert capture.n_captured == executor.n_graphs == 8  # 1, 2, 4 or 6 rows of 256 or 512 tokens
    plain = TorchExecutor(random_transformer(QWEN).eval(), executor.n_blocks, block_tokens=BLOCK_TOKENS)
    assert served_mix(executor, QWEN.vocab_size)[1] == served_mix(plain, QWEN.vocab_size)[1]
    assert capture.n_captured == 8 and capture.n_replayed > 0


def test_an_accelerators_model_that_cannot_be_captured_is_computed_plainly_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    capture = EachTime()
    limits = EngineLimits(max_running=3, max_cache_bytes=1 << 20)
    with caplog.at_level(logging.WARNING, "model.serving.executors.accelerated"):
        executor = accelerated_executor(random_transformer(LATENT).eval(), limits, capture=capture)
    assert type(executor) is TorchExecutor and capture.n_captured == 0
    assert "without CUDA graphs: MLA has no captured form" in caplog.text


# -- what cannot be captured ------------------------------------------------------------------------


def test_models_that_cannot_be_captured_say_why() -> None:
    assert refusal(random_transformer(QWEN)) is None
    assert "MLA" in str(refusal(random_transformer(LATENT)))
    offloaded = random_transformer(QWEN)
    spread(offloaded, Layout(2, CPU))
    assert "several devices" in str(refusal(offloaded))
    with pytest.raises(ValueError, match="cannot be served by CUDA graphs: MLA"):
        GraphedExecutor(random_transformer(LATENT), 4, capture=EachTime())


@pytest.mark.parametrize(
    ("dtype", "capability", "widths", "reason"),
    [
        (torch.bfloat16, (9, 0), (512, 128), None),
        (torch.bfloat16, (10, 0), (8, 8), None),
        (
            torch.float32,
            (9, 0),
            (512, 128),
            "needs bf16, not torch.float32: serve the model with --weights bf16",
        ),
        (torch.bfloat16, (8, 9), (512, 128), "this device has 8.9"),
        (torch.bfloat16, (12, 0), (512, 128), "this device has 12.0"),
        (torch.bfloat16, (9, 0), (512, 12), "multiples of 8"),
    ],
)
def test_experts_are_captured_only_where_their_product_does_not_ask_the_host(
    dtype: torch.dtype, capability: tuple[int, int], widths: tuple[int, ...], reason: str | None
) -> None:
    found = product_refusal(dtype, capability, widths)
    assert found is None if reason is None else reason in str(found)


def test_capturing_without_a_device_is_refused_and_not_left_out() -> None:
    with pytest.raises(RuntimeError, match="need the model on a CUDA device"):
        GraphedExecutor(random_transformer(SMALL), 4)


@needs_cuda("no graph was captured or replayed")
@pytest.mark.parametrize("config", [SMALL, QWEN, WINDOWED], ids=lambda config: config.name)
def test_replayed_graphs_give_the_answers_of_plain_steps(config: ModelConfig) -> None:
    def model() -> torch.nn.Module:
        return random_transformer(config).eval().cast_blocks(torch.bfloat16).cuda()

    plain = TorchExecutor(model(), 24, block_tokens=4)  # type: ignore[arg-type]
    expected, _ = served_mix(plain, config.vocab_size)
    executor = GraphedExecutor(model(), 24, block_tokens=4, capture_sizes=CAPTURE_SIZES)  # type: ignore[arg-type]
    logits, _ = served_mix(executor, config.vocab_size)
    assert executor.n_graphs == 1
    assert relative_error(logits[4], expected[4]) < 0.05
