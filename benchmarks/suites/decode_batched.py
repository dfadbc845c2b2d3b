"""Suite `decode_batched`: one id at a time for many sequences together, as continuous batching does.

As suite `decode`, but the stack's scheduler puts the ids of all sequences into one step, after prompts of different
lengths. Nearly every expert is touched at such batches.

    sizes      `benchmarks/catalogue/decoders.py`
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns per call (one step of all sequences); ratios of alternating calls, the gate's test on the pairs' median
    roofline   2 operations per active weight, head included, and id; attention over each context
    cap        per-sequence attention and sparse experts leave this much at small sizes
    power      as suite `decode`: turns of 3-4 ms (demo), of 20-30 ms (standard)
    time       at most 10 s a pair (demo), 30 s (standard), most of it starting, drawing and checking

Imports numpy and the oracle, not torch.
"""

from benchmarks.catalogue import DECODE_BATCHED
from benchmarks.suites.base import sized
from benchmarks.suites.decode import Decode
from benchmarks.suites.decoder_suite import TOLERANCES


def decode_batched(preset: str) -> Decode:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return Decode(**sized(DECODE_BATCHED, preset), oracle_checks=3, tolerance=TOLERANCES[preset])
