"""A mesh's training state in the form that a single process saves, so that a run may continue on any mesh or none.

Weights are the fp32 masters, moments and their step counter are AdamW's, by parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.parallel.sharded_adamw import MOMENTS
from model.training.run.errors import SavedStateError
from model.training.run.state import MODEL, OPTIMIZER, RANDOM, Progress, Snapshot

OPTIMIZER_KIND = "adamw"


def to_snapshot(
    whole: Mapping[str, Any], progress: Progress, stream: dict[str, Any], *, run: dict[str, Any]
) -> Snapshot:
    """Convert the result of `training_state.merge_training` to a snapshot."""
    optimiser: Mapping[str, Mapping[str, Tensor]] = whole["optimiser"]
    tensors = {
        MODEL: {**whole["model"], **optimiser["master"]},
        OPTIMIZER: {f"{name}:{kind}": value for kind in MOMENTS for name, value in optimiser[kind].items()}
        | {f"{name}:step": torch.tensor(float(whole["steps"])) for name in optimiser["master"]},
        RANDOM: {"cpu": torch.get_rng_state()},
    }
    facts = {
        "progress": vars(progress).copy(),
        "stream": stream,
        "run": run,
        "optimizer": {"kind": OPTIMIZER_KIND, "scalars": {}},
        "scaler": {},
    }
    return Snapshot(tensors, facts)


def from_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """Convert a snapshot to the input of `training_state.cut_training`. Raises SavedStateError for another optimiser's."""
    kind = snapshot.facts["optimizer"]["kind"]
    if kind != OPTIMIZER_KIND:
        raise SavedStateError(
            f"the saved state is of optimizer {kind!r}: several processes train with {OPTIMIZER_KIND!r}"
        )
    weights, moments = snapshot.tensors[MODEL], snapshot.tensors[OPTIMIZER]
    return {
        "steps": snapshot.progress.step,
        "model": weights,
        "optimiser": {"master": weights}
        | {
            kind: {
                name: moments.get(f"{name}:{kind}", torch.zeros_like(weight))  # buffers have none
                for name, weight in weights.items()
            }
            for kind in MOMENTS
        },
    }
