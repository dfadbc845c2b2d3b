"""Targets of serving against its peers, and the rows that compare. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.peers.quartiles import Quartiles, ratios
from benchmarks.report import Row

AHEAD = 1.0  # where no factor is set: faster than every one of them
#: Times the peer's tokens per second, by workload and engine.
FACTORS: Mapping[str, Mapping[str, float]] = {
    "prefill 128": {"vllm": 1.3},
    "prefill 512": {"vllm": 1.3},
    "decode B1": {"transformers": 5.0, "vllm": 2.5, "llama.cpp": 1.2},
    "decode B8": {"vllm": 1.3, "llama.cpp": 1.3},
    "decode B16": {"vllm": 1.3},
}
DECODE_SHARE = {"bf16": 0.85, "int8": 0.6, "int8-dynamic": 0.6}  # of the bandwidth's roofline at batch 1
PREFILL_SHARE = 0.75  # of bf16 prompts in the GEMM peak, bf16's or fp32's
PREFIX_SHARE = 0.2  # time to first token on a hit, of a miss
SCHEDULING_SHARE = 0.05  # of a step at batch 16
SIXTEEN_BITS, EIGHT_BITS = "16-bit", "8-bit"
CLASSES = {
    "bf16": SIXTEEN_BITS,
    "f16": SIXTEEN_BITS,
    "int8": EIGHT_BITS,
    "int8-dynamic": EIGHT_BITS,
    "q8_0": EIGHT_BITS,
}


def ratio_row(
    *, workload: str, model: str, ours: str, engine: str, peer: str, rates: Mapping[str, Sequence[float]]
) -> Row:
    """Our rate over a peer's, round by round, against the factor that is wanted; `rates` are by contender."""
    count = min(len(rates[ours]), len(rates[peer]))
    ratio = ratios(rates[ours][:count], rates[peer][:count])
    target = FACTORS[workload].get(engine, AHEAD)
    return Row(
        f"serve, {ours} over {peer}: {model}, {workload}",
        round(ratio.median, 2),
        "x",
        f">= {target:g}x" if target > AHEAD else "> 1x",
        ratio.median >= target if target > AHEAD else ratio.median > AHEAD,
        f"tokens per core-second, round by round: {ratio.text()}",
    )


def best_peer(names: Sequence[str], rates: Mapping[str, Sequence[float]]) -> str:
    """Choose the format with the best median among one engine's formats of equal width. Raises ValueError where there is none."""
    return max(names, key=lambda name: Quartiles.of(rates[name]).median)


def share_row(name: str, share: Quartiles, target: float | None, how: str) -> Row:
    """A share of a roofline, as a row; without a target it is for information."""
    return Row(
        name,
        round(share.median, 3),
        "of the roofline",
        None if target is None else f">= {target:g}",
        None if target is None else share.median >= target,
        f"{share.text()}; {how}",
    )


def below_row(name: str, share: Quartiles, target: float, how: str) -> Row:
    """A share that is to stay small, as a row."""
    return Row(
        name, round(share.median, 3), "", f"<= {target:g}", share.median <= target, f"{share.text()}; {how}"
    )


def least_row(name: str, value: float, unit: str, peers: Mapping[str, float], how: str) -> Row:
    """A figure that is to be below those of all `peers`, as a row; without any it is for information."""
    if not peers:
        return Row(name, value, unit, None, None, how)
    best = min(peers, key=lambda peer: peers[peer])
    return Row(name, value, unit, f"< {peers[best]:g} {unit} ({best})", value < peers[best], how)
