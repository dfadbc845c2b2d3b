"""Suite `moe_backward`: one forward and backward pass of the Mixture-of-Experts layer, in single precision.

A call brings fresh secret tokens x, is answered by y, and then brings a fresh secret gradient of y, as a training step
knows it only after the forward pass. The second answer is the gradient of x and the gradients of all weights, whole. So
nothing can be left out: every element is compared.

    sizes      `benchmarks/catalogue/layers.py`; imbalance over the experts and shapes are secret, as in `moe_forward`
    tolerance  against base 1e-5 rms and 2e-4 at the worst element, per tensor; see `TOLERANCE`
    unit       ns per call; ratios of alternating calls, the gate's test on the pairs' median log ratio
    roofline   18 operations per active weight and token: three products in the forward pass, six in the backward pass
    cap        as `moe_forward`: from the textbook loop to the chosen experts alone
    power      as the kernel suites: calls of 20 ms or longer keep the noise of a pair below 2 %
    time       demo about 3 s a pair on one core, standard about 12 s

Gradients are as large as the weights, so a call moves 3 to 5 MB at demo's sizes. Imports numpy and the oracle, not torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.catalogue import MOE_BACKWARD
from benchmarks.oracle.moe_backward import moe_backward as gradients_of
from benchmarks.suites.base import (
    SAMPLES,
    Exchange,
    Suite,
    Tensors,
    TensorSpec,
    Tolerance,
    sized,
)
from benchmarks.suites.moe_forward import MoEForwardProblem

GRADIENT = "grad."  # before the name of what it is a gradient of


class MoEBackwardProblem(MoEForwardProblem):
    """One layer with its weights. Inputs: x and grad_y [1, T, D]. Answers: y, grad.x and grad.NAME of each weight."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        super().__init__(shape | {"block": 1}, rng)
        self.outputs += (
            TensorSpec(f"{GRADIENT}x", "float32", self._x_shape),
            *(
                TensorSpec(f"{GRADIENT}{name}", "float32", value.shape)
                for name, value in self.weights.items()
            ),
        )
        self.floor_flops *= 3  # the backward pass has two products for each one of the forward pass

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        inputs = super().draw_inputs(rng, turn)
        return inputs | {"grad_y": rng.standard_normal(self._x_shape, dtype=np.float32)}

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        y, *gradients = self.outputs
        return (
            Exchange({"x": inputs["x"]}, (y,)),
            Exchange({"grad_y": inputs["grad_y"]}, tuple(gradients)),
        )

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        return super().exact(inputs, turn) | self._gradients(inputs, self._exact_weights)

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return super().plain(inputs, turn) | self._gradients(inputs, self.weights)

    def _gradients(self, inputs: Tensors, weights: Tensors) -> Tensors:
        """Gradients in the precision of `weights`."""
        dtype = weights["router.weight"].dtype
        x_TD, grad_y_TD = (inputs[name][0].astype(dtype) for name in ("x", "grad_y"))
        grad_x_TD, of_weights = gradients_of(x_TD, grad_y_TD, weights, top_k=self.shape["top_k"])
        named = {f"{GRADIENT}{name}": value for name, value in of_weights.items()}
        return {f"{GRADIENT}x": grad_x_TD[None], **named}


@dataclass(frozen=True)
class MoEBackward(Suite):
    """See the module's docstring."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "moe_backward_sample.py"

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> MoEBackwardProblem:
        return MoEBackwardProblem(shape, rng)


# Measured against the oracle per tensor (74 problems of all presets): the grouped and the textbook form in torch and the
# plain numpy form are off by 3-9e-7 (root mean square) and at most 1.8e-5 (largest element); bfloat16 inside by 4e-3.
TOLERANCE = Tolerance(rms_ppb=10_000, peak_ppb=200_000)
# Few tokens make short sums, whose errors do not average out: two right forms differed by up to 1.75 times there.
TINY_TOLERANCE = Tolerance(
    rms_ppb=10_000, peak_ppb=200_000, error_ratio_ppm=2_000_000, drift_ratio_ppm=4_000_000
)


def moe_backward(preset: str) -> MoEBackward:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return MoEBackward(
        **sized(MOE_BACKWARD, preset),
        oracle_checks=3,
        tolerance=TINY_TOLERANCE if preset == "tiny" else TOLERANCE,
    )
