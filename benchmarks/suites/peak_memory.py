"""Suite `peak_memory`: the most memory that a fresh process uses for a fixed workload.

A trial: both sides read the same long prompts and then take the same decode steps, all checked as in suites `prefill` and
`decode`; a side's value is the peak of its cgroup in bytes, the interpreter and torch included (about 150 MB, never
subtracted). One value per side and pair. Weights are small and prompts long, so that the cache and a step's working memory
decide the peak, not loading. Where no cgroup counts, the sandbox polls the tree's memory, and short peaks may be missed:
the evidence says so. On CUDA the figure is still the host's memory.

    sizes      `benchmarks/catalogue/decoders.py`
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       bytes; a pair's value is ln(base's / candidate's), the gate's test on the pairs' median
    cap        the interpreter and torch remain
    power      14 of 15 pairs of equal trees (demo) differed by at most 0.12 %, one by 0.45 %; a saving of a few per cent
               still takes the median of several pairs
    time       at most 20 s a pair (demo), 60 s (standard), most of it checking

Imports numpy and the oracle, not torch.
"""

import random
from dataclasses import dataclass

import numpy as np

import benchmarks.pairs.checks as checks  # not `from`: it imports the suites' base itself
from benchmarks.catalogue import PEAK_MEMORY
from benchmarks.catalogue.decoders import PEAK_STEP_TOKENS, PEAK_STEPS
from benchmarks.suites.base import WARM_UP, Problem, Tensors, Tolerance, Trial, TrialSides, sized
from benchmarks.suites.decode import DecodeProblem
from benchmarks.suites.decoder_suite import TOLERANCES, DecoderSuite


class PeakMemoryProblem(DecodeProblem):
    """The turns of suite `decode`: prompts first, then one id at a time, all sequences together."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        super().__init__(shape, rng)
        self.config |= {"step_tokens": PEAK_STEP_TOKENS}


@dataclass(frozen=True)
class PeakMemoryTrial(Trial):
    """See the module's docstring."""

    tolerance: Tolerance

    def run(self, problem: Problem, sides: TrialSides, order: random.Random) -> dict[str, int]:
        for turn in range(WARM_UP, PEAK_STEPS):
            inputs = problem.draw_inputs(sides.numbers("inputs", turn), turn)
            names = order.sample(sides.names, 2)
            answers = {name: sides.call(name, inputs, problem.outputs)[0] for name in names}
            self._check(answers, problem, inputs, turn, sides)
        return {name: sides.peak_memory_bytes(name) for name in sides.names}

    def _tolerance_of(self, output: str) -> Tolerance:
        return self.tolerance

    def _check(
        self, answers: dict[str, Tensors], problem: Problem, inputs: Tensors, turn: int, sides: TrialSides
    ) -> None:
        """The prompts' answers and the last step's are compared with the oracle as well."""
        base, candidate = answers["base"], answers["candidate"]
        with_oracle = turn in (WARM_UP, PEAK_STEPS - 1)
        wrong = checks.compare_pair(base, candidate, problem, inputs, turn, self._tolerance_of)
        if wrong is None and with_oracle:
            wrong = checks.compare_oracle(base, candidate, problem, inputs, turn, self._tolerance_of)
        sides.checked(with_oracle=with_oracle)
        if wrong is not None:
            raise sides.fail("wrong_output", wrong.side, wrong.detail)


@dataclass(frozen=True)
class PeakMemory(DecoderSuite):
    """See the module's docstring."""

    @property
    def trial(self) -> Trial:
        return PeakMemoryTrial(self.tolerance)

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> PeakMemoryProblem:
        return PeakMemoryProblem(shape, rng)


def peak_memory(preset: str) -> PeakMemory:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return PeakMemory(**sized(PEAK_MEMORY, preset), oracle_checks=0, tolerance=TOLERANCES[preset])
