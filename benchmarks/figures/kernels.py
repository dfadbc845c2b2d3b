"""Speed of the compiled executor alone, without an engine: `python -m benchmarks.figures.kernels [--json] [--quick]`.

Steps of a Qwen3-MoE of 186M parameters (54M active, random weights) in each form of weights, in turns, compared with the bandwidth
and the matrix products of the same core in the same run; then what each form costs in held-out loss on SmolLM2, where that
is fetched. One core, 3 minutes; `--quick` 1 minute. `python -m benchmarks.peers serve` compares whole engines.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
import torch.nn.functional as F

from benchmarks.commands import ends_plainly
from benchmarks.figures import one_core
from benchmarks.peers.drivers.machine import bandwidth, gemm
from benchmarks.peers.models import QWEN3_MOE_186M
from benchmarks.peers.quartiles import Quartiles
from benchmarks.peers.roofline import cache_read, prefill_flops, weights_read
from benchmarks.peers.targets import DECODE_SHARE, PREFILL_SHARE
from benchmarks.report import Row
from model.checkpoint import models_home
from model.config import ModelConfig
from model.layers.unfilled import unfilled
from model.serving.executors.base import Part
from model.serving.executors.native import BLOCK_TOKENS, NativeExecutor, supports
from model.serving.executors.packed import Weights
from model.smollm2.convert import GGUFModel
from model.smollm2.fetch import GGUF_FILE
from model.transformer import Transformer

ALL_WEIGHTS: tuple[Weights, ...] = get_args(Weights)
CONTEXT = 128  # tokens behind each sequence that decodes
BATCHES, PROMPTS = (1, 8, 16), (128, 512)
GEMM_DTYPES: dict[Weights, str] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "int8": "bfloat16",
    "int8-dynamic": "int8",
    "int4": "int8",
}
LOSS_TARGET = 0.01  # nats per token
TEXTS = (argparse, inspect, shutil, statistics)  # modules whose sources SmolLM2 reads
TEXT_TOKENS = 512


@dataclass(frozen=True)
class Plan:
    rounds: int
    n_texts: int
    weights: tuple[Weights, ...] = ALL_WEIGHTS


FULL, QUICK = Plan(rounds=9, n_texts=4), Plan(rounds=3, n_texts=1)


def measure(plan: Plan, config: ModelConfig = QWEN3_MOE_186M) -> list[Row]:
    """All rows. A reason instead of figures where there are no kernels."""
    reason = supports(config)
    if reason is not None:
        return [Row("compiled executor", None, "", None, None, reason)]
    return [*speed_rows(plan, config), *loss_rows(plan)]


def speed_rows(plan: Plan, config: ModelConfig) -> Iterator[Row]:
    """Milliseconds of steps and what share of the core's limits they are; every form of weights in each round."""
    transformer = random_transformer(config)
    n_blocks = max(BATCHES) * -(-(CONTEXT + 1) // BLOCK_TOKENS) + max(PROMPTS) // BLOCK_TOKENS
    executors: dict[Weights, NativeExecutor] = {}
    for weights in plan.weights:
        started = time.perf_counter()
        executors[weights] = NativeExecutor(transformer, n_blocks, weights=weights)
        packing_s = time.perf_counter() - started
        how = f"{executors[weights].weights.n_bytes / 2**20:.0f} MiB, compared with the {config.total_parameters * 4 / 2**20:.0f} MiB given"
        yield Row(f"pack {weights}", packing_s, "s", None, None, how)
    for executor in executors.values():
        fill_cache(executor, max(BATCHES))
    limits = [{weights: core_limits(config, weights) for weights in plan.weights}]
    steps = {
        **{f"decode B{n}": decode_parts(n) for n in BATCHES},
        **{f"prefill {n}": prefill_parts(n) for n in PROMPTS},
    }
    times: dict[tuple[str, Weights], list[float]] = {
        (name, weights): [] for name in steps for weights in plan.weights
    }
    for _ in range(plan.rounds):
        for name, parts in steps.items():
            for weights, executor in executors.items():
                repeats = 1 if name.startswith("prefill") else 5
                times[name, weights].append(timed_s(lambda: executor.step(parts), repeats))  # noqa: B023
    limits.append({weights: core_limits(config, weights) for weights in plan.weights})
    for weights in plan.weights:
        products = max((limit[weights] for limit in limits), key=lambda limit: limit.flops)
        best = replace(products, bytes_per_s=max(limit[weights].bytes_per_s for limit in limits))
        yield from _decode_rows(config, weights, best, times)
        yield from _prefill_rows(config, weights, best, times)


@dataclass(frozen=True)
class CoreLimits:
    """Peak rates of the core: in reading what one token needs, and in large products."""

    bytes_per_s: float
    flops: float
    dtype: str  # of these products


def core_limits(config: ModelConfig, weights: Weights) -> CoreLimits:
    read = bandwidth(int(bytes_read(config, weights)))
    products = gemm(GEMM_DTYPES[weights])
    return CoreLimits(float(read["bytes_per_s"]), float(products["flops"]), str(products["dtype"]))


def bytes_read(config: ModelConfig, weights: Weights) -> float:
    """The least that decoding one token reads: weights in use, keys and values of CONTEXT tokens."""
    kept_bytes = 4 if weights == "fp32" else 2
    return weights_read(config, weights) + cache_read(config, CONTEXT, element_bytes=kept_bytes)


def _decode_rows(
    config: ModelConfig, weights: Weights, limits: CoreLimits, times: dict[tuple[str, Weights], list[float]]
) -> Iterator[Row]:
    for n in BATCHES:
        rate = Quartiles.of([n / second for second in times[f"decode B{n}", weights]])
        how = f"context {CONTEXT}, median of {rate.n} rounds, {rate.low:.0f} to {rate.high:.0f}"
        yield Row(f"decode B{n} {weights}", rate.median, "tok/s", None, None, how)
    n_bytes = bytes_read(config, weights)
    share = n_bytes / statistics.median(times["decode B1", weights]) / limits.bytes_per_s
    target = DECODE_SHARE.get(weights)
    yield Row(
        f"decode B1 {weights}, of the roofline",
        share,
        "",
        None if target is None else f">= {target}",
        None if target is None else share >= target,
        f"{n_bytes / 1e6:.0f} MB a token; read here at {limits.bytes_per_s / 1e9:.1f} GB/s, the better of before and after",
    )


def _prefill_rows(
    config: ModelConfig, weights: Weights, limits: CoreLimits, times: dict[tuple[str, Weights], list[float]]
) -> Iterator[Row]:
    for n in PROMPTS:
        seconds = statistics.median(times[f"prefill {n}", weights])
        how = f"median of {len(times[f'prefill {n}', weights])} rounds"
        yield Row(f"prefill {n} {weights}", n / seconds, "tok/s", None, None, how)
        share = prefill_flops(config, n) / seconds / limits.flops
        how = f"products of {limits.dtype} here: {limits.flops / 1e9:.0f} G/s"
        target = f">= {PREFILL_SHARE}" if weights == "bf16" else None
        holds = share >= PREFILL_SHARE if target else None
        yield Row(f"prefill {n} {weights}, of the products' peak", share, "", target, holds, how)


def loss_rows(plan: Plan) -> Iterator[Row]:
    """Held-out loss of SmolLM2 on sources of Python's library, in each form of weights."""
    gguf = models_home() / "smollm2" / GGUF_FILE
    if not gguf.is_file():
        how = f"needs {gguf}: run `python -m model.smollm2 fetch`"
        yield Row("loss on SmolLM2", None, "nats", None, None, how)
        return
    source = GGUFModel(gguf)
    transformer = Transformer(source.config).requires_grad_(False)
    transformer.load_state_dict(source.dense_state())
    tokenizer = source.tokenizer()
    texts = [
        tokenizer.encode(inspect.getsource(module)).ids[:TEXT_TOKENS] for module in TEXTS[: plan.n_texts]
    ]
    exact: float | None = None
    for weights in plan.weights:
        executor = NativeExecutor(transformer, TEXT_TOKENS // BLOCK_TOKENS, weights=weights)
        loss = statistics.fmean(text_loss(executor, text) for text in texts)
        how = f"{len(texts)} texts of {TEXT_TOKENS} tokens"
        yield Row(f"loss on SmolLM2, {weights}", loss, "nats", None, None, how)
        if exact is None:
            exact = loss
            continue
        added = loss - exact
        how = f"against {plan.weights[0]}, same texts"
        yield Row(f"loss added by {weights}", added, "nats", f"<= {LOSS_TARGET}", added <= LOSS_TARGET, how)


def text_loss(executor: NativeExecutor, text: Sequence[int]) -> float:
    """Mean cross-entropy per token, nats; the text is one sequence in blocks 0, 1 ..."""
    blocks = range(-(-len(text) // BLOCK_TOKENS))
    logits_SV = executor.step([Part(text, 0, blocks, len(text))])
    return float(F.cross_entropy(torch.from_numpy(logits_SV[:-1]), torch.tensor(text[1:])))


def random_transformer(config: ModelConfig) -> Transformer:
    """The same random numbers over and over, each matrix scaled by its width: real sizes, made in a second."""
    with unfilled():
        transformer = Transformer(config)
    transformer = transformer.to_empty(device="cpu").requires_grad_(False)
    pattern = torch.randn(1 << 20, generator=torch.Generator().manual_seed(1))
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        numbers = parameter.view(-1)
        for start in range(0, numbers.numel(), pattern.numel()):
            piece = numbers[start : start + pattern.numel()]
            piece.copy_(pattern[: piece.numel()])
        parameter.mul_(parameter.shape[-1] ** -0.5)
    return transformer


def decode_parts(n_sequences: int) -> list[Part]:
    """One new token of each sequence behind CONTEXT others."""
    n_blocks = -(-(CONTEXT + 1) // BLOCK_TOKENS)
    return [Part([7 * i + 1], CONTEXT, range(i * n_blocks, (i + 1) * n_blocks)) for i in range(n_sequences)]


def prefill_parts(n_tokens: int) -> list[Part]:
    """One prompt, in the blocks behind those of decoding."""
    first = max(BATCHES) * -(-(CONTEXT + 1) // BLOCK_TOKENS)
    tokens = [31 * i % 251 for i in range(n_tokens)]
    return [Part(tokens, 0, range(first, first + n_tokens // BLOCK_TOKENS))]


def fill_cache(executor: NativeExecutor, n_sequences: int) -> None:
    """Keys and values of the decoding sequences' contexts: memory that was never written reads too fast."""
    tokens = [13 * i % 251 for i in range(CONTEXT)]
    for part in decode_parts(n_sequences):
        executor.step([Part(tokens, 0, part.blocks, 0)])


def timed_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the median call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    return one_core.run(
        "python -m benchmarks.figures.kernels",
        __doc__,
        arguments,
        lambda is_quick: measure(QUICK if is_quick else FULL),
        quick="fewer rounds and texts",
        keeps_memory=False,
    )


if __name__ == "__main__":
    sys.exit(main())
