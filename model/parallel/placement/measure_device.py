"""Measure a device's rates for `device_model.py`: medians of timed calls after a warm-up, on synthetic inputs.

The device is the host or any accelerator of torch (torch.accelerator: CUDA, ROCm, XPU, MPS, and NPUs with their
plug-ins); nothing here depends on its kind.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F

from model.data.batches.packing import pack
from model.layers.moe.experts import apply_experts
from model.parallel.placement.device_model import DeviceModel, DeviceModelError, Operation, Samples

WIDTH = 512
ROWS = (1, 16, 128, 1024)
CONTEXTS = (64, 256, 1024)
ROWS_PER_EXPERT = (1, 8, 64)
N_EXPERTS = 8
HEADS, D_HEAD = 8, 64
ROW_TOKENS = 1024
COPY_BYTES = (4096, 2**24)
STREAM_BYTES = 2**27  # several times any cache


def measure_device(name: str, dtype_name: str, *, seconds: float = 0.2) -> DeviceModel:
    """Measure the device `name`, cpu or an accelerator of torch. Raises DeviceModelError for a missing one."""
    device, dtype = _device(name), getattr(torch, dtype_name)
    rates: dict[Operation, Samples] = {
        "dense": tuple((rows, _dense(rows, device, dtype, seconds)) for rows in ROWS),
        "attention": tuple((tokens, _attention(tokens, device, dtype, seconds)) for tokens in CONTEXTS),
        "experts": tuple((rows, _experts(rows, device, dtype, seconds)) for rows in ROWS_PER_EXPERT),
    }
    if device.type == "cpu":  # text is read and packed by the host
        rates["data"] = ((1.0, _data_path(seconds)),)
    latency, gb_s = (0.0, float(2**20)) if device.type == "cpu" else _link(device, seconds)
    return DeviceModel(
        name=_name(device),
        kind=device.type,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dtype=dtype_name,
        memory_bytes=_memory_bytes(device),
        memory_gb_s=_read_gb_s(device, seconds),
        link_gb_s=gb_s,
        link_latency_us=latency,
        rates=rates,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceModelError(f"torch has no device {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cpu":
        return device
    available = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if available is None or available.type != device.type:
        raise DeviceModelError(f"this machine has no {name}: torch sees {available or 'the CPU only'}")
    return device


def _seconds_of(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median time of one call, with a synchronised device before and after each."""

    def timed() -> float:
        _synchronise(device)
        start = time.perf_counter()
        call()
        _synchronise(device)
        return time.perf_counter() - start

    timed()
    samples = [timed()]
    while sum(samples) < seconds or len(samples) < 5:
        samples.append(timed())
    return statistics.median(samples)


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _dense(rows: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    x = torch.randn(rows, WIDTH, device=device).to(dtype)
    weight = torch.randn(4 * WIDTH, WIDTH, device=device).to(dtype)
    return 2 * rows * 4 * WIDTH * WIDTH / _seconds_of(lambda: F.linear(x, weight), device, seconds)


def _attention(tokens: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    q = torch.randn(1, HEADS, tokens, D_HEAD, device=device).to(dtype)
    taken = _seconds_of(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True), device, seconds)
    return 2 * tokens * (tokens / 2) * HEADS * 2 * D_HEAD / taken


def _experts(rows_per_expert: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    rows = rows_per_expert * N_EXPERTS
    x = torch.randn(rows, WIDTH, device=device).to(dtype)
    chosen = torch.arange(N_EXPERTS, device=device).repeat(rows_per_expert)[:, None]
    weights = torch.ones(rows, 1, device=device)
    up, gate = (torch.randn(N_EXPERTS, WIDTH, WIDTH, device=device).to(dtype) for _ in range(2))
    down = torch.randn(N_EXPERTS, WIDTH, WIDTH, device=device).to(dtype)
    with torch.inference_mode():
        taken = _seconds_of(lambda: apply_experts(x, weights, chosen, gate, up, down), device, seconds)
    return 2 * rows * 3 * WIDTH * WIDTH / taken


def _data_path(seconds: float) -> float:
    """Tokens per second of the training data path: packing documents of a shard into rows of ids."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, ROW_TOKENS, (400,), generator=rng).tolist()
    documents = [torch.randint(2**15, (length,), generator=rng).to(torch.int32) for length in lengths]

    def rows() -> list[torch.Tensor]:
        return [
            torch.cat([documents[index] for index in row]).to(torch.int64)
            for row in pack(lengths, ROW_TOKENS)
        ]

    n_tokens: int = sum(lengths)
    return n_tokens / _seconds_of(rows, torch.device("cpu"), seconds)


def _link(device: torch.device, seconds: float) -> tuple[float, float]:
    """Latency in microseconds and bandwidth in GB/s of copies from the host."""

    def taken(size: int) -> float:
        host = torch.empty(size, dtype=torch.uint8)
        return _seconds_of(lambda: host.to(device), device, seconds)

    small, large = (taken(size) for size in COPY_BYTES)
    return small * 1e6, COPY_BYTES[1] / max(large - small, 1e-9) / 1e9


def _read_gb_s(device: torch.device, seconds: float) -> float:
    data = torch.ones(STREAM_BYTES // 4, device=device)
    return STREAM_BYTES / _seconds_of(data.sum, device, seconds) / 1e9


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    free_and_total = getattr(torch.get_device_module(device.type), "mem_get_info", None)
    if free_and_total is None:
        raise DeviceModelError(f"torch cannot report the memory of {device}")
    return int(free_and_total()[1])


def _name(device: torch.device) -> str:
    if device.type != "cpu":
        named = getattr(torch.get_device_module(device.type), "get_device_name", None)
        return str(named(device)) if named is not None else str(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()} x{torch.get_num_threads()}"
