"""What the inference suites share as suites: their sandboxed half, families of shapes, tolerance and limits."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.suites.base import SAMPLES, Case, Suite, TimeLimits, Tolerance

MIB = 1024 * 1024

# Measured on the engine's kernels and on the plain numpy form (312 calls of demo, 35 of standard): off the exact logits by
# at most 7e-6 rms and 3.3e-5 at the worst element. The kernels sum in order of k, so they were off up to 1.6 times (demo)
# and 2.0 times (standard; 1.65 in the median) as far as the plain form; torch's products 1.35 times. bfloat16 inside is
# off by 4e-2. A call answers with few logits, so errors hardly average: the ratios are wider than a layer's.
TOLERANCE = Tolerance(rms_ppb=20_000, peak_ppb=200_000, error_ratio_ppm=2_000_000, drift_ratio_ppm=3_000_000)
# Sums of 64 products leave so little rounding error that its size is chance (760 calls: 1.7 times, 3.2 times).
TINY_TOLERANCE = Tolerance(
    rms_ppb=20_000, peak_ppb=200_000, error_ratio_ppm=4_000_000, drift_ratio_ppm=8_000_000
)
TOLERANCES = {"tiny": TINY_TOLERANCE, "demo": TOLERANCE, "standard": TOLERANCE}

STEP_TOKENS = 256  # a step's budget: what a node has where no one says otherwise

TIME_LIMITS = {
    "tiny": TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=5_000),
    "demo": TimeLimits(start_ms=60_000, load_ms=20_000, call_ms=10_000),
    "standard": TimeLimits(start_ms=60_000, load_ms=60_000, call_ms=30_000),
}
MEMORY_BYTES = {"tiny": 512 * MIB, "demo": 1024 * MIB, "standard": 2048 * MIB}

# Widths per preset. Heads are powers of two wide: there all implementations' rotary frequencies round to the same numbers.
WIDTHS: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {
        "vocab": (256, 320),
        "d_model": (64,),
        "n_layers": (2,),
        "n_heads": (4,),
        "n_kv_heads": (2,),
        "d_head": (16,),
        "d_ff": (96,),
        "d_expert": (32, 48),
        "n_experts": (8,),
        "top_k": (2,),
        "n_shared": (1,),
        "first_moe_layer": (1,),
        "tied": (0, 1),
    },
    "demo": {
        "vocab": (1920, 2048, 2176),
        "d_model": (256,),
        "n_layers": (4,),
        "n_heads": (8,),
        "n_kv_heads": (2,),
        "d_head": (32,),
        "d_ff": (480, 512, 544),
        "d_expert": (112, 128, 144),
        "n_experts": (16,),
        "top_k": (2,),
        "n_shared": (1,),
        "first_moe_layer": (1,),
        "tied": (0, 1),
    },
    "standard": {
        "vocab": (7936, 8192, 8448),
        "d_model": (512,),
        "n_layers": (6,),
        "n_heads": (8,),
        "n_kv_heads": (2, 4),
        "d_head": (64,),
        "d_ff": (1024, 1280),
        "d_expert": (224, 256, 288),
        "n_experts": (16,),
        "top_k": (4,),
        "n_shared": (1,),
        "first_moe_layer": (1,),
        "tied": (0, 1),
    },
}


@dataclass(frozen=True)
class DecoderSuite(Suite):
    """A suite whose calls go through `decoder_sample.py`."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "decoder_sample.py"


def family(preset: str, name: str, **own: tuple[int, ...]) -> Case:
    """Transformers of a preset's widths; `own` are the suite's dimensions, or widths that it wants otherwise."""
    return Case(name, {**WIDTHS[preset], **own})


def spread(longest: int, count: int) -> list[int]:
    """`count` lengths from half of `longest` up to it."""
    if count == 1:
        return [longest]
    return [longest // 2 + (longest - longest // 2) * place // (count - 1) for place in range(count)]
