"""Sandboxed half and tolerances of the inference suites."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.suites.base import SAMPLES, Suite, Tolerance

# Measured on the engine's kernels and on the plain numpy form (312 calls of demo, 35 of standard): off the exact logits by
# at most 7e-6 rms and 3.3e-5 at the worst element. The kernels sum in order of k, so they were off up to 1.6 times (demo)
# and 2.0 times (standard; 1.65 in the median) as far as the plain form; torch's products 1.35 times. bfloat16 inside is
# off by 4e-2. A call answers with few logits, so errors hardly average: the ratios are wider than a layer's.
TOLERANCE = Tolerance(rms_ppb=20_000, peak_ppb=200_000, error_ratio_ppm=2_000_000, drift_ratio_ppm=3_000_000)
# Sums of 64 products leave so little rounding error that its size is chance (760 calls: 1.7 times, 3.2 times).
TINY_TOLERANCE = Tolerance(
    rms_ppb=20_000, peak_ppb=200_000, error_ratio_ppm=4_000_000, drift_ratio_ppm=8_000_000
)
TOLERANCES = {"tiny": TINY_TOLERANCE, "demo": TOLERANCE, "tour": TOLERANCE, "standard": TOLERANCE}


@dataclass(frozen=True)
class DecoderSuite(Suite):
    """A suite whose calls go through `decoder_sample.py`."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "decoder_sample.py"
