"""Gradient checkpointing: memory that a training pass holds for its activations.

Measured twice for each mode, in separate processes: by hooks on what autograd saves (bytes of distinct tensors that are
no parameters, at the end of the forward pass), and by how far the process grows over one forward and backward pass, its
gradients having been there before. The process's growth includes what is computed again and the logits.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.report import MeasuringFailed, Row
from model.config import ModelConfig
from model.training.losses.cross_entropy import next_token_loss
from model.training.report.memory import memory_use
from model.transformer import Transformer

LEAST_SAVED = 0.70
MODES = ("none", "selective", "full")
VOCABULARY = 1024
FIELDS = {
    "full": {"process_bytes": "peak of the process", "saved_bytes": "saved tensors"},
    # what selective checkpointing keeps is in a separate store, which hooks on saved tensors do not see
    "selective": {"process_bytes": "peak of the process"},
}
RESET_PEAK = Path("/proc/self/clear_refs")

Results = dict[str, dict[int, list[Result]]]  # by mode and depth, one per seed


@dataclass(frozen=True)
class Settings:
    """`depths` of models, the last of which the rows are about."""

    d_model: int
    depths: tuple[int, ...]
    d_ff: int
    rows: int
    length: int
    seeds: tuple[int, ...]


SETTINGS: dict[Scale, Settings] = {
    "quick": Settings(192, (12,), 512, 8, 256, (0,)),
    "full": Settings(384, (4, 8, 12), 1024, 4, 512, (0, 1, 2)),
}


def work(settings: dict[str, Any], made: Path) -> Result:
    torch.set_num_threads(1)
    torch.manual_seed(settings["seed"])
    model = Transformer(ModelConfig.from_dict(settings["model"])).train()
    model.checkpointing = settings["mode"]
    ids_BS = torch.randint(0, VOCABULARY, (settings["rows"], settings["length"]))
    for _ in range(2):  # gradients exist from here on, and libraries have what they keep
        next_token_loss(model(ids_BS), ids_BS).backward()  # type: ignore[no-untyped-call]
    return {
        "process_bytes": statistics.median(process_growth(model, ids_BS) for _ in range(3)),
        "saved_bytes": saved_bytes(model, ids_BS),
        "parameters": model.config.total_parameters,
    }


def process_growth(model: Transformer, ids_BS: Tensor) -> int:
    """Bytes by which the process's resident size grows at most over one forward and backward pass."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET_PEAK.write_text("5", encoding="ascii")  # proc(5): resets the peak resident size
    before = memory_use(torch.device("cpu"))
    next_token_loss(model(ids_BS), ids_BS).backward()  # type: ignore[no-untyped-call]
    after = memory_use(torch.device("cpu"))
    if before is None or after is None:
        raise RuntimeError("/proc/self/status does not tell the process's size: this needs Linux")
    return after.peak_bytes - before.now_bytes


def saved_bytes(model: Transformer, ids_BS: Tensor) -> int:
    """Bytes of distinct storages that autograd saved in a forward pass, parameters excepted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = next_token_loss(model(ids_BS), ids_BS)
    total = sum(sizes.values())
    del loss
    return total


def measure(bench: Bench, scale: Scale) -> Measured:
    settings = SETTINGS[scale]
    plan = [(mode, depth, seed) for mode in MODES for depth in settings.depths for seed in settings.seeds]
    found = bench.run([_job(settings, *one) for one in plan], "recompute")
    results: Results = {mode: {depth: [] for depth in settings.depths} for mode in MODES}
    for (mode, depth, _), result in zip(plan, found, strict=True):
        results[mode][depth].append(result)
    deepest = {mode: by_depth[settings.depths[-1]] for mode, by_depth in results.items()}
    return Measured(decide(deepest, settings, scale), [_figure(results)] if len(settings.depths) > 1 else [])


def _job(settings: Settings, mode: str, depth: int, seed: int) -> Job:
    model = decoder(
        "recompute", VOCABULARY, d_model=settings.d_model, n_layers=depth, d_ff=settings.d_ff
    ).to_dict()
    shape = {"rows": settings.rows, "length": settings.length}
    return Job("recompute", {"model": model, "mode": mode, "seed": seed, **shape}, is_weighed=True)


def _figure(results: Results) -> Figure:
    curves = [
        Curve(
            mode,
            [float(depth) for depth in by_depth],
            [statistics.mean(one["process_bytes"] for one in found) / 1e6 for found in by_depth.values()],
        )
        for mode, by_depth in results.items()
    ]
    return Figure("Memory of activations by depth, peak of the process", "layers", "MB", curves)


def decide(results: Mapping[str, Sequence[Result]], settings: Settings, scale: Scale) -> list[Row]:
    """Rows of checkpointing: the target is for the full one; the selective one is reported in addition."""
    if min(result["process_bytes"] for result in results["none"]) <= 0:
        raise MeasuringFailed("a training pass did not make the process larger: its peak cannot be told here")
    rows = []
    for mode in ("full", "selective"):
        for field, name in FIELDS[mode].items():
            change = Spread.of(
                [
                    100 * (mine[field] / plain[field] - 1)
                    for mine, plain in zip(results[mode], results["none"], strict=True)
                ]
            )
            sizes = [statistics.mean(result[field] for result in results[kind]) for kind in (mode, "none")]
            is_promised = mode == "full"
            rows.append(
                Row(
                    f"gradient checkpointing, {mode}: activation memory, {name}",
                    round(change.mean, 1),
                    "%",
                    f"-{LEAST_SAVED:.0%}" if is_promised else None,
                    change.mean <= -100 * LEAST_SAVED if is_promised else None,
                    f"{sizes[0] / 1e6:.1f} MB against {sizes[1] / 1e6:.1f} MB without, {settings.depths[-1]} layers of "
                    f"width {settings.d_model}, {settings.rows} x {settings.length} tokens, fp32; "
                    f"change {change.text(1, '%')}; {SAYS[scale]}",
                )
            )
    return rows


CLAIM = Claim("recompute", "Gradient checkpointing takes 70 % off the peak memory of activations", measure)
