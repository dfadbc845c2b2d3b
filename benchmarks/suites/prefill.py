"""Suite `prefill`: reading prompts, from ids to the logits after each prompt's last one, in single precision.

One call begins sequences with fresh secret prompts, as the engine does: the stack's scheduler gives them blocks and plans
steps of at most STEP_TOKENS tokens, its executor computes these. Prompts of one call are of different lengths, and their lengths
change places from call to call. Before each timed call an untimed one adds one id to each prompt read last and is checked
as well: caches that were not filled, or filled wrongly, show there. The answer after a prompt depends on every id before
it through all layers, so what looks at the future or forgets the past is wrong.

    sizes      `benchmarks/catalogue/decoders.py`
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns per call; ratios of alternating calls, the gate's test on the pairs' median log ratio
    roofline   2 operations per active weight and id, the head once per prompt, attention scores and sums
    cap        the shipped kernels read the demo's prompts at half of what a core's matrix products reach
    power      turns of 30 ms (demo), of 250 ms (standard)
    time       at most 10 s a pair (demo), 40 s (standard), most of it drawing prompts and checking

Imports numpy and the oracle, not torch.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.catalogue import PREFILL
from benchmarks.catalogue.decoders import STEP_TOKENS
from benchmarks.catalogue.facts import spread
from benchmarks.suites.base import Tensors, sized
from benchmarks.suites.decoder_problem import DecoderProblem, active_parameters, head_parameters
from benchmarks.suites.decoder_suite import TOLERANCES, DecoderSuite


class PrefillProblem(DecoderProblem):
    """Dimensions in addition to the widths: `sequences` prompts a call, the longest of `tokens` ids."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        super().__init__(shape, rng, shape["sequences"])
        self.lengths = spread(shape["tokens"], shape["sequences"])
        self.config |= {"step_tokens": STEP_TOKENS}
        self.floor_flops = prefill_flops(shape, self.lengths)

    def before(self, rng: np.random.Generator, turn: int) -> Tensors | None:
        return self.add_ids(rng, turn) if turn >= 0 else None

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return self.begin(rng, turn, rng.permutation(self.lengths).tolist())


def prefill_flops(shape: dict[str, int], lengths: list[int]) -> int:
    """No right logits after prompts of these lengths with fewer operations.

    Of the last layer only keys, values and what follows from the last id are needed, so that layer is not counted.
    """
    inner = shape | {"n_layers": shape["n_layers"] - 1}
    seen = sum(length * (length + 1) // 2 for length in lengths) * inner["n_layers"]
    attention = 2 * 2 * seen * shape["n_heads"] * shape["d_head"]
    return 2 * (sum(lengths) * active_parameters(inner) + len(lengths) * head_parameters(shape)) + attention


@dataclass(frozen=True)
class Prefill(DecoderSuite):
    """See the module's docstring."""

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> PrefillProblem:
        return PrefillProblem(shape, rng)


def prefill(preset: str) -> Prefill:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return Prefill(**sized(PREFILL, preset), oracle_checks=2, tolerance=TOLERANCES[preset])
