"""Steps of training by their definition: clipping and AdamW around the decoder's gradients, with numpy only.

In double precision it is the oracle of suite `train_step`, in single precision its yardstick. It imports nothing from
`model/`. Gradients are scaled down to a norm over all parameters together (Pascanu et al. 2013), and AdamW (Loshchilov &
Hutter 2019) decays matrices and their stacks, not vectors.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.oracle.decoder_backward import Parameters, backward, forward, next_token_loss
from benchmarks.oracle.moe import Array
from benchmarks.oracle.transformer import DecoderConfig, Ids

NORM_EPS = 1e-6  # keeps the scale finite where all gradients are zero


@dataclass(frozen=True)
class Recipe:
    """The constants of a step."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


class Training:
    """Parameters with AdamW's moments. A step changes all of them, in the precision they came in."""

    def __init__(self, parameters: Parameters, config: DecoderConfig, recipe: Recipe) -> None:
        self.parameters = {name: value.copy() for name, value in parameters.items()}
        self.config, self.recipe = config, recipe
        self.steps = 0
        self._first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, tokens_BS: Ids) -> Array:
        """The loss [()] before the update that the batch brings about."""
        tape = forward(self.parameters, tokens_BS, self.config)
        self._update(clipped(backward(self.parameters, tape, self.config), self.recipe.clip_norm))
        return next_token_loss(tape)

    def _update(self, gradients: Parameters) -> None:
        recipe = self.recipe
        self.steps += 1
        rate = recipe.learning_rate / (1 - recipe.beta1**self.steps)
        correction = (1 - recipe.beta2**self.steps) ** 0.5
        for name, value in self.parameters.items():
            real = value.dtype.type
            first, second, gradient = self._first[name], self._second[name], gradients[name]
            first += (gradient - first) * real(1 - recipe.beta1)
            second += (gradient * gradient - second) * real(1 - recipe.beta2)
            if value.ndim > 1:
                value *= real(1 - recipe.learning_rate * recipe.weight_decay)
            value -= real(rate) * first / (np.sqrt(second) / real(correction) + real(recipe.eps))


def gradient_norm(gradients: Parameters) -> float:
    """Euclidean, over all parameters; summed in double precision."""
    return float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in gradients.values())))


def clipped(gradients: Parameters, norm: float) -> Parameters:
    """Scaled to at most `norm`; left alone where they are below it."""
    scale = norm / (gradient_norm(gradients) + NORM_EPS)
    if scale >= 1:
        return gradients
    return {name: value * value.dtype.type(scale) for name, value in gradients.items()}
