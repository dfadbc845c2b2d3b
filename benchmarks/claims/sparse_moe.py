"""Sparse MoE: few of the parameters are active, so a token costs few operations and, where many come at once, little time.

Both models are in one process and take turns in random order on fresh ids; the median of the paired ratios counts.
Routers are random, so that experts are loaded about evenly. At 16 tokens nearly every expert is touched, which is why
little time is saved there whatever is saved in operations.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.report import Row
from model.config import ModelConfig, MoEConfig
from model.training.report.flops import training_cost
from model.transformer import Transformer

LEAST_ACTIVE, MOST_ACTIVE = 0.15, 0.20
LEAST_FLOPS_SAVED = 0.83
BATCH_SIZES = (1, 16, 512, 4096)  # tokens in one pass
LONGEST_ROW = 512
D_MODEL = 512
CALLS: dict[Scale, dict[int, int]] = {
    "quick": {1: 20, 16: 20, 512: 5, 4096: 3},
    "full": {1: 100, 16: 100, 512: 20, 4096: 8},
}
DTYPES: dict[Scale, tuple[str, ...]] = {"quick": ("float32",), "full": ("float32", "bfloat16")}


def sparse_model() -> ModelConfig:
    moe = MoEConfig(D_MODEL, d_expert=512, n_experts=40, top_k=4, n_shared=2)
    return decoder("sparse", 1024, d_model=D_MODEL, n_layers=2, d_ff=1536, n_heads=8, n_kv_heads=2, moe=moe)


def dense_of_equal_size(sparse: ModelConfig) -> ModelConfig:
    """The same model with dense feed-forwards as wide as makes the number of parameters equal (to one neuron)."""
    assert sparse.moe is not None
    width = round(sparse.moe.total_parameters / (3 * sparse.d_model))
    return dataclasses.replace(sparse, name="dense", moe=None, d_ff=width)


def forward_flops(config: ModelConfig) -> int:
    """Per token, without attention's products over the context."""
    return training_cost(config).per_token // 3


def work(settings: dict[str, Any], made: Path) -> Result:
    """Nanoseconds of interleaved forward passes by dtype and number of tokens: pairs (sparse, dense)."""
    torch.set_num_threads(1)
    torch.manual_seed(settings["seed"])
    order = random.Random(settings["seed"])
    sparse = sparse_model()
    models = [Transformer(config).eval() for config in (sparse, dense_of_equal_size(sparse))]
    pairs: dict[str, dict[str, list[list[int]]]] = {}
    for dtype in settings["dtypes"]:
        for model in models:
            model.cast_blocks(getattr(torch, dtype))
        pairs[dtype] = {
            tokens: [_pair(models, int(tokens), order) for _ in range(1 + calls)][1:]  # the first warms up
            for tokens, calls in settings["calls"].items()
        }
    return {"pairs": pairs}


@torch.inference_mode()
def _pair(models: list[Transformer], tokens: int, order: random.Random) -> list[int]:
    width = min(tokens, LONGEST_ROW)
    ids_BS = torch.randint(0, models[0].config.vocab_size, (tokens // width, width))
    times = [0, 0]
    for side in order.sample((0, 1), 2):
        begun = time.perf_counter_ns()
        models[side].hidden(ids_BS)
        times[side] = time.perf_counter_ns() - begun
    return times


def measure(bench: Bench, scale: Scale) -> Measured:
    settings = {
        "seed": 0,
        "dtypes": list(DTYPES[scale]),
        "calls": {str(tokens): CALLS[scale][tokens] for tokens in BATCH_SIZES},
    }
    result = bench.one(Job("sparse_moe", settings, is_alone=True), "sparse-moe")
    rows = size_rows(sparse_model()) + time_rows(result["pairs"], scale)
    curves = [
        Curve(dtype, [float(t) for t in by_tokens], [100 * saved(pairs).mean for pairs in by_tokens.values()])
        for dtype, by_tokens in result["pairs"].items()
    ]
    title = "Change of the time per token from dense to sparse"
    return Measured(rows, [Figure(title, "tokens in a pass", "%", curves, is_x_log=True)])


def size_rows(sparse: ModelConfig) -> list[Row]:
    dense = dense_of_equal_size(sparse)
    active = sparse.active_parameters / sparse.total_parameters
    flops = forward_flops(sparse) / forward_flops(dense) - 1
    shape = (
        f"{sparse.total_parameters / 1e6:.1f}M parameters, {sparse.active_parameters / 1e6:.1f}M active, "
        f"against dense {dense.total_parameters / 1e6:.1f}M; counted from the shapes"
    )
    return [
        Row(
            "sparse MoE: active parameters",
            round(100 * active, 1),
            "%",
            f"{LEAST_ACTIVE:.0%} to {MOST_ACTIVE:.0%}",
            LEAST_ACTIVE <= active <= MOST_ACTIVE,
            shape,
        ),
        Row(
            "sparse MoE: FLOPs per token against dense of equal size",
            round(100 * flops, 1),
            "%",
            f"at least -{LEAST_FLOPS_SAVED:.0%}",
            -flops >= LEAST_FLOPS_SAVED,
            f"{shape}; 2 x active parameters forward, the head included",
        ),
    ]


def saved(pairs: list[list[int]]) -> Spread:
    """Change of time from dense to sparse: the median of the paired ratios, less one, with the quartiles."""
    changes = sorted(sparse / dense - 1 for sparse, dense in pairs)
    quarter = len(changes) // 4
    return Spread(statistics.median(changes), changes[quarter], changes[-1 - quarter], len(changes))


def time_rows(pairs: dict[str, dict[str, list[list[int]]]], scale: Scale) -> list[Row]:
    """One a dtype and number of tokens; times are reported, not promised."""
    rows = []
    for dtype, by_tokens in pairs.items():
        for tokens, times in by_tokens.items():
            change = saved(times)
            sparse_ms = statistics.median(time[0] for time in times) / 1e6
            dense_ms = statistics.median(time[1] for time in times) / 1e6
            how = (
                f"{change.n} interleaved forward passes in random order on one core, one thread: "
                f"{sparse_ms:.2f} against {dense_ms:.2f} ms a pass, quartiles {100 * change.low:.0f} to "
                f"{100 * change.high:.0f} %; {SAYS[scale]}"
            )
            rows.append(
                Row(
                    f"sparse MoE: time per token at T = {tokens}, {dtype}",
                    round(100 * change.mean, 1),
                    "%",
                    None,
                    None,
                    how,
                )
            )
    return rows


CLAIM = Claim(
    "sparse-moe",
    "A sparse MoE activates 15 to 20 % of its parameters and saves that much of the operations of a dense model of equal size",
    measure,
)
