"""The sandboxed half of suite `train_step`: the stack's trainer, one step per call.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import training_models  # type: ignore[import-not-found]  # so does this one

CONSTANTS = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "clip_norm")


def prepare(threads: int, device: str) -> None:
    training_models.start(threads, device)


def build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """A trainer of the mounted tree with the judge's weights and constants."""
    from model.training.config.recipe import Recipe
    from model.training.run.trainer import Trainer

    constants: dict[str, Any] = {name: float(config[name]) for name in CONSTANTS}
    recipe = Recipe(warmup_steps=0, **constants)
    return Trainer(training_models.transformer(config, weights), recipe), config["device"]


def call(state: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """tokens [B, S] -> loss [1] before the update; then probe [P, S] -> its logits [P, S, V] after the update."""
    trainer, device = state
    if "tokens" in inputs:
        loss = trainer.step(tensors.to_torch(inputs["tokens"], device))
        return {"loss": tensors.to_raw(loss.reshape(1))}
    return {"logits": tensors.to_raw(trainer.logits(tensors.to_torch(inputs["probe"], device)))}
