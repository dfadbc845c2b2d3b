"""Suite `train_step`: optimiser steps of a small Mixture-of-Experts transformer, in single precision.

A call brings a fresh secret batch, is answered by the batch's loss before the update, and then brings fresh secret probe
ids: the second answer is their logits after the update. The process keeps its state from call to call, so each answer
depends on every update before it; and since one clock runs over both messages, no part of an update can be put off until
nothing is timed.

    sizes      `benchmarks/catalogue/training.py`; ids follow a secret, uneven distribution
    tolerance  logits against base 1e-4 rms and 2e-3 at the worst element, the loss 1e-5; see `TOLERANCE`
    unit       ns per call; ratios of alternating calls, the gate's test on the pairs' median log ratio
    roofline   6 operations per active weight and token of the batch, 2 per one of the probes, attention left out
    cap        a step is bound by matrix products that the shipped stack does at a tenth of the roofline or better
    power      as the kernel suites: calls of 20 ms or longer keep the noise of a pair below 2 %
    time       demo about 4 s a pair on one core, standard about 15 s

The exact answers come from the same steps in double precision (`benchmarks/oracle/training.py`), taken in parallel with the sides.
Imports numpy and the oracle, not torch.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.catalogue import TRAIN_STEP
from benchmarks.oracle.decoder_backward import Parameters, forward, routing_margins
from benchmarks.oracle.training import Recipe, Training
from benchmarks.oracle.transformer import Ids
from benchmarks.suites.base import (
    SAMPLES,
    Array,
    Exchange,
    Problem,
    Suite,
    Tensors,
    TensorSpec,
    Tolerance,
    sized,
)
from benchmarks.suites.decoder_problem import (
    active_parameters,
    draw_weights,
    head_parameters,
    model_config,
    oracle_config,
)

# A step this large moves the probes' logits by 2 to 10 % of their size, hundreds of times the tolerance: leaving one out,
# taking half of a batch or that of the step before shows at once. No decay (1e-4 a step), no clipping and a learning rate that is 1 %
# off (4e-4) show within two steps, bfloat16 gradients (1e-5 a step) by the oracle. The large eps keeps AdamW from blowing
# up the rounding of gradients that are next to nothing: with 1e-6 errors were ten times as large at four layers.
RECIPE = Recipe(learning_rate=5e-4, beta1=0.9, beta2=0.95, eps=1e-5, weight_decay=0.1, clip_norm=1.0)

# Sequences in which a token's choice of experts depends on less than this are drawn again: rounding, of this step and of
# those before it, may decide it either way.
MIN_MARGIN = 5e-4

# Measured (30 problems of preset tiny, 16 of demo over 21 steps, 6 of standard over 11): the stack and the plain numpy form
# are off the exact logits by 1e-6, 2e-6 and 7e-6 (median root mean square; at worst 2e-5, largest element 1e-4), hardly
# growing from step to step. Steps amplify rounding by chance: errors of two right forms are up to 2.6 times apart.
TOLERANCE = Tolerance(
    rms_ppb=100_000, peak_ppb=2_000_000, error_ratio_ppm=4_000_000, drift_ratio_ppm=6_000_000
)
LOSS_TOLERANCE = Tolerance(rms_ppb=10_000, peak_ppb=10_000)
LOSS_ROUNDING = 1e-6  # relative; at most 2.5e-7 was measured


class TrainStepProblem(Problem):
    """A transformer under training. Inputs: tokens [B, S] and probe [P, S]. Answers: loss [1], logits [P, S, V]."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        self.shape = shape
        self.weights = training_weights(shape, rng)
        self.config = model_config(shape) | {name: repr(value) for name, value in asdict(RECIPE).items()}
        batch, probes, length = shape["sequences"], shape["probes"], shape["tokens"]
        self.outputs = (
            TensorSpec("loss", "float32", (1,)),
            TensorSpec("logits", "float32", (probes, length, shape["vocab"])),
        )
        weights = active_parameters(shape) + head_parameters(shape)
        self.floor_flops = 2 * weights * length * (3 * batch + probes)
        rank = rng.permutation(shape["vocab"])
        self._chance = 1 / (rank + 4.0)
        self._chance /= self._chance.sum()
        self._oracle = oracle_config(shape)
        double: Parameters = {name: value.astype(np.float64) for name, value in self.weights.items()}
        self._exact = Training(double, self._oracle, RECIPE)
        self._plain = Training(self.weights, self._oracle, RECIPE)
        self._to_come: list[tuple[int, Tensors]] = []  # turns that the plain form has not taken yet
        self._exact_answers: dict[int, Tensors] = {}
        self._plain_answers: dict[int, Tensors] = {}

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        """Takes the oracle's step as well: the probes' choices of experts must be clear after it."""
        tokens = self._clear(rng, self.shape["sequences"])
        loss = self._exact.step(tokens)
        probe = self._clear(rng, self.shape["probes"])
        logits = forward(self._exact.parameters, probe, self._oracle).logits_BSV
        inputs = {"tokens": tokens, "probe": probe}
        self._exact_answers[turn] = {"loss": loss[None], "logits": logits}
        self._to_come.append((turn, inputs))
        return inputs

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        loss, logits = self.outputs
        return (
            Exchange({"tokens": inputs["tokens"]}, (loss,)),
            Exchange({"probe": inputs["probe"]}, (logits,)),
        )

    def _clear(self, rng: np.random.Generator, count: int) -> Ids:
        """Sequences without a choice of experts that depends on rounding."""
        tokens = self._ids(rng, count)
        unclear = np.arange(count)
        while unclear.size:
            tape = forward(self._exact.parameters, tokens[unclear], self._oracle)
            margin = routing_margins(self._exact.parameters, tape, self._oracle)
            unclear = unclear[margin < MIN_MARGIN]
            tokens[unclear] = self._ids(rng, unclear.size)
        return tokens

    def _ids(self, rng: np.random.Generator, count: int) -> Ids:
        return rng.choice(self.shape["vocab"], size=(count, self.shape["tokens"]), p=self._chance)

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        return self._exact_answers[turn]

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        while self._to_come:
            number, given = self._to_come.pop(0)
            self._plain.step(given["tokens"])
            logits = forward(self._plain.parameters, given["probe"], self._oracle).logits_BSV
            exact = self._exact_answers[number]["loss"]
            # The error of a single number may be close to zero by chance, which is not required of a candidate.
            self._plain_answers[number] = {"logits": logits, "loss": exact * (1 + LOSS_ROUNDING)}
        return self._plain_answers[turn]


def training_weights(shape: dict[str, int], rng: np.random.Generator) -> Parameters:
    """Weights to begin training with: as those of the inference suites, but an embedding that a tied head can use."""
    weights: dict[str, Array] = draw_weights(shape, rng)
    weights["embedding"] *= np.float32(shape["d_model"] ** -0.5)
    return weights


@dataclass(frozen=True)
class TrainStep(Suite):
    """See the module's docstring."""

    loss_tolerance: Tolerance = LOSS_TOLERANCE

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "train_step_sample.py"

    @property
    def sample_helpers(self) -> tuple[Path, ...]:
        return (SAMPLES / "training_models.py",)

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> TrainStepProblem:
        return TrainStepProblem(shape, rng)

    def tolerance_of(self, output: str) -> Tolerance:
        return self.loss_tolerance if output == "loss" else self.tolerance

    def with_patches_apart(self, patches: int) -> Self:
        suite = super().with_patches_apart(patches)
        return replace(suite, loss_tolerance=self.loss_tolerance.times(patches))


def train_step(preset: str) -> TrainStep:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return TrainStep(**sized(TRAIN_STEP, preset), oracle_checks=4, tolerance=TOLERANCE)
