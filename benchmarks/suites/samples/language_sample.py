"""The sandboxed half of the suites that train on text: the stack's trainer with the stack's own recipe.

Runs inside the sandbox only. Whatever it returns is scored from outside; nothing here is trusted.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import training_models  # type: ignore[import-not-found]  # so does this one


def prepare(threads: int, device: str) -> None:
    training_models.start(threads, device)


def build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """A trainer of the mounted tree that begins with the judge's weights."""
    from model.training.run.trainer import Trainer

    return Trainer(training_models.transformer(config, weights)), config["device"]


def call(state: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Either tokens [B, S] -> loss [1], one step; or held_out [H, S] -> logits [H, S, V], no step."""
    trainer, device = state
    if "tokens" in inputs:
        loss = trainer.step(tensors.to_torch(inputs["tokens"], device))
        return {"loss": tensors.to_raw(loss.reshape(1))}
    return {"logits": tensors.to_raw(trainer.logits(tensors.to_torch(inputs["held_out"], device)))}
