"""Suite `decode`: one id at a time for one sequence, from the id to its logits, in single precision.

The warm-up turn, untimed, reads the prompts. Each timed turn sends one more id, drawn only then and not the likeliest
one, so no step can be taken before it is asked for and none can be batched with the next; the stack's scheduler and the
caches live in the sample. A turn steps a few sequences of different lengths, one after the other: each is a message of its
own, sent after the answer to the one before, so that nothing in the process knows of another sequence's next id. What the
ids before were is only in the caches: an answer that forgets them, or mixes them up, is wrong.

    sizes      `benchmarks/catalogue/decoders.py`
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns per call (a step of each sequence); ratios of alternating calls, the gate's test on the pairs' median
    roofline   2 operations per active weight, head included, and id; attention over the context. What really bounds a
               step is reading the active weights once: 4 bytes each at one core's 22-27 GB/s. Nothing is refused by
               that bound, because small models may stay in a cache
    cap        a step of the shipped kernels reads its weights at a third of what a core's caches give (demo)
    power      turns of 3-5 ms (demo), of 10 ms (standard): equal trees differ by 1.3 % a pair (standard deviation, a busy
               machine) after 96 turns, by 3 % after 24
    time       at most 10 s a pair (demo), 20 s (standard), most of it starting, drawing and checking

Imports numpy and the oracle, not torch.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.catalogue import DECODE
from benchmarks.catalogue.decoders import STEP_TOKENS
from benchmarks.catalogue.facts import spread
from benchmarks.suites.base import WARM_UP, Tensors, sized
from benchmarks.suites.decoder_problem import DecoderProblem, active_parameters, head_parameters
from benchmarks.suites.decoder_suite import TOLERANCES, DecoderSuite


class DecodeProblem(DecoderProblem):
    """Dimensions in addition to the widths: `sequences`, the longest prompt of `context` ids, stepped `together` or alone (0)."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        super().__init__(shape, rng, shape["sequences"])
        self.lengths = rng.permutation(spread(shape["context"], shape["sequences"])).tolist()
        self.config |= {"step_tokens": STEP_TOKENS}
        self.floor_flops = decode_flops(shape, self.lengths)

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return self.begin(rng, turn, self.lengths) if turn == WARM_UP else self.add_ids(rng, turn)


def decode_flops(shape: dict[str, int], contexts: list[int]) -> int:
    """No right logits after one more id behind each of these contexts with fewer operations."""
    attention = 2 * 2 * sum(contexts) * shape["n_layers"] * shape["n_heads"] * shape["d_head"]
    return 2 * len(contexts) * (active_parameters(shape) + head_parameters(shape)) + attention


@dataclass(frozen=True)
class Decode(DecoderSuite):
    """See the module's docstring."""

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> DecodeProblem:
        return DecodeProblem(shape, rng)


def decode(preset: str) -> Decode:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return Decode(**sized(DECODE, preset), oracle_checks=3, tolerance=TOLERANCES[preset])
