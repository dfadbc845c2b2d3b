"""Suite `decode_batched`: one id at a time for many sequences together, as continuous batching does.

As suite `decode`, but the stack's scheduler puts the ids of all sequences, 8 to 16, into one step, behind contexts of
different lengths. Nearly every expert is touched at such batches.

    family     widths of `decoder_suite.py`; 8-16 contexts, half of the longest (100-300 ids) up to it
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns per call (one step of all sequences); ratios of alternating calls, the gate's test on the pairs' median
    roofline   2 operations per active weight, head included, and id; attention over each context
    cap        6x: per-sequence attention and sparse experts leave this much at small sizes
    power      as suite `decode`: 96 turns of 3-4 ms (demo), 48 of 20-30 ms (standard)
    time       at most 10 s a pair (demo), 30 s (standard), most of it starting, drawing and checking

Knows numpy and the oracle, no torch.
"""

from benchmarks.catalogue import DECODE_BATCHED
from benchmarks.suites.base import UnknownSuite
from benchmarks.suites.decode import CALLS_PER_SIDE, Decode
from benchmarks.suites.decoder_suite import MEMORY_BYTES, TIME_LIMITS, TOLERANCES, family

TOGETHER = {"together": (1,)}
CASES = {
    "tiny": (
        family(
            "tiny",
            "contexts-5x24",
            sequences=(4, 5),
            context=tuple(range(20, 29)),
            max_context=(64,),
            **TOGETHER,
        ),
    ),
    "demo": (
        family(
            "demo",
            "contexts-8x200",
            sequences=(8,),
            context=tuple(range(180, 221)),
            max_context=(512,),
            **TOGETHER,
        ),
    ),
    "standard": (
        family(
            "standard",
            "contexts-8x300",
            sequences=(8,),
            context=tuple(range(270, 331)),
            max_context=(1024,),
            **TOGETHER,
        ),
        family(
            "standard",
            "contexts-16x200",
            sequences=(16,),
            context=tuple(range(180, 221)),
            max_context=(1024,),
            **TOGETHER,
        ),
    ),
}


def decode_batched(preset: str) -> Decode:
    """The suite at one preset's sizes; raises UnknownSuite."""
    if preset not in CASES:
        raise UnknownSuite(f"decode_batched has no preset {preset!r}; presets: {', '.join(sorted(CASES))}")
    return Decode(
        info=DECODE_BATCHED,
        preset=preset,
        cases=CASES[preset],
        calls_per_side=CALLS_PER_SIDE[preset],
        oracle_checks=3,
        tolerance=TOLERANCES[preset],
        time_limits=TIME_LIMITS[preset],
        memory_bytes=MEMORY_BYTES[preset],
    )
