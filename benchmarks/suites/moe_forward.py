"""Suite `moe_forward`: one forward pass of the Mixture-of-Experts layer, in single precision.

Draws, per pair, secret shapes and weights, and per call secret tokens. How evenly the tokens spread over the experts
is secret too: an implementation that counts on balance gives wrong answers. Sizes are in
`benchmarks/catalogue/layers.py`. Imports numpy and the oracle, not torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.catalogue import MOE_FORWARD
from benchmarks.oracle import moe
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

# Tokens whose choice of experts depends on less than this are drawn again: rounding may decide them either way.
# Single-precision logits of size one are off by about 1e-6.
MIN_MARGIN = 1e-4

# Measured against the oracle, textbook and sorted forms in torch and numpy are all off by 4-6e-7 (root mean square)
# and at most 4e-6 (largest element); bfloat16 inside is off by 4e-3.
TOLERANCE = Tolerance(rms_ppb=2_000, peak_ppb=40_000)


class MoEForwardProblem(Problem):
    """One layer with its weights. Shapes: x and y [B, T, D], B batches that the layer sees one after the other.

    Each batch is a message of its own, sent after the answer to the one before.
    """

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        self.shape = shape
        self._x_shape = (shape["block"], shape["tokens"], shape["d_model"])
        self.config: dict[str, int | str] = {
            **{name: value for name, value in shape.items() if name not in ("block", "tokens")},
            "gate": "softmax",
        }
        self.weights = draw_weights(shape, rng)
        self.outputs = (TensorSpec("y", "float32", self._x_shape),)
        active = shape["top_k"] + shape["n_shared"]
        tokens = shape["block"] * shape["tokens"]
        self.floor_flops = tokens * active * 3 * 2 * shape["d_model"] * shape["d_expert"]
        # A direction that all tokens share moves every expert's logit by its own amount: secret imbalance.
        self._lean_D = rng.uniform(0.0, 1.0) * rng.standard_normal(shape["d_model"])
        self._exact_weights = {name: value.astype(np.float64) for name, value in self.weights.items()}

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        x_TD = self._tokens(rng, self.shape["block"] * self.shape["tokens"])
        while True:
            margin_T = moe.top_k_margin(
                x_TD.astype(np.float64), self._exact_weights["router.weight"], self.shape["top_k"]
            )
            (unclear,) = np.nonzero(margin_T < MIN_MARGIN)
            if unclear.size == 0:
                return {"x": x_TD.reshape(self._x_shape)}
            x_TD[unclear] = self._tokens(rng, unclear.size)

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        _, tokens, d_model = self._x_shape
        answer = (TensorSpec("y", "float32", (1, tokens, d_model)),)
        return tuple(
            Exchange({"x": inputs["x"][batch : batch + 1]}, answer) for batch in range(len(inputs["x"]))
        )

    def _tokens(self, rng: np.random.Generator, count: int) -> Array:
        noise_TD = rng.standard_normal((count, self.shape["d_model"]), dtype=np.float32)
        return (noise_TD + self._lean_D).astype(np.float32)

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        return {"y": self._forward(inputs["x"].astype(np.float64), self._exact_weights)}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return {"y": self._forward(inputs["x"], self.weights)}

    def _forward(self, x_BTD: Array, weights: Tensors) -> Array:
        """Tokens do not see each other, so batches make no difference to the answer."""
        x_TD = x_BTD.reshape(-1, x_BTD.shape[-1])
        y_TD = moe.moe_forward(x_TD, weights, top_k=self.shape["top_k"], gate="softmax")
        return y_TD.reshape(x_BTD.shape)


def draw_weights(shape: dict[str, int], rng: np.random.Generator) -> Tensors:
    """Single-precision weights under the stack's parameter names, scaled so that activations stay near one."""
    experts, d_model, d_expert = shape["n_experts"], shape["d_model"], shape["d_expert"]

    def normal(*size: int) -> Array:
        values = rng.standard_normal(size, dtype=np.float32)
        values *= np.float32(size[-1] ** -0.5)
        return values

    weights = {
        "router.weight": normal(experts, d_model),
        "experts.w_gate": normal(experts, d_expert, d_model),
        "experts.w_up": normal(experts, d_expert, d_model),
        "experts.w_down": normal(experts, d_model, d_expert),
    }
    if shape["n_shared"]:
        d_shared = shape["n_shared"] * d_expert
        weights["shared.w_gate"] = normal(d_shared, d_model)
        weights["shared.w_up"] = normal(d_shared, d_model)
        weights["shared.w_down"] = normal(d_model, d_shared)
    return weights


@dataclass(frozen=True)
class MoEForward(Suite):
    """See the module's docstring."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "moe_forward_sample.py"

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> MoEForwardProblem:
        return MoEForwardProblem(shape, rng)


def moe_forward(preset: str) -> MoEForward:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return MoEForward(**sized(MOE_FORWARD, preset), oracle_checks=3, tolerance=TOLERANCE)
