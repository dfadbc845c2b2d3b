"""Optimiser moments by parameter name, so that they can follow their parameters into a grown model.

    moments = growth.moments(named_moments(parent, optimizer))
    set_named_moments(child, child_optimizer, moments)

Supports AdamW with fp32 or 8-bit moments.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from model.growth.derivation import Moments
from model.training.optim.adamw_8bit import AdamW8bit


def named_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Moments]:
    """Copies of `step`, `exp_avg` and `exp_avg_sq` of each parameter that the optimiser has updated, fp32.

    Raises TypeError for an optimiser other than AdamW.
    """
    _require_adamw(optimizer)
    found = {}
    for name, parameter in model.named_parameters():
        if isinstance(optimizer, AdamW8bit):
            moments = optimizer.moments(parameter)
        else:
            moments = {key: value.clone() for key, value in optimizer.state.get(parameter, {}).items()}
        if moments:
            found[name] = moments
    return found


def set_named_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Moments]
) -> None:
    """Set parameters' moments by name; parameters without any start without.

    Raises KeyError for a name that the model does not have, ValueError for a shape that does not fit, and TypeError
    for an optimiser other than AdamW.
    """
    _require_adamw(optimizer)
    parameters = dict(model.named_parameters())
    for name in moments:
        if name not in parameters:
            raise KeyError(f"the grown model has no parameter {name}: are these its parent's moments?")
        if moments[name]["exp_avg"].shape != parameters[name].shape:
            raise ValueError(
                f"moments of {name} have shape {list(moments[name]['exp_avg'].shape)}, the parameter has "
                f"{list(parameters[name].shape)}"
            )
    for name, values in moments.items():
        parameter = parameters[name]
        if isinstance(optimizer, AdamW8bit):
            optimizer.set_moments(parameter, values)
            continue
        is_fused = any(
            group["fused"] and any(parameter is member for member in group["params"])
            for group in optimizer.param_groups
        )
        step_device = parameter.device if is_fused else torch.device("cpu")
        optimizer.state[parameter] = {
            key: value.to(step_device, torch.float32, copy=True)
            if key == "step"
            else value.to(parameter.device, parameter.dtype, copy=True)
            for key, value in values.items()
        }


def _require_adamw(optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.AdamW | AdamW8bit):
        raise TypeError(
            f"moments of {type(optimizer).__name__} cannot follow a growing model, those of AdamW can: start the "
            "child with a fresh optimiser"
        )
