"""Training state of a DeepSpeed engine, whole on every rank: read and set master weights and moments, ZeRO 0 to 3.

DeepSpeed cuts flattened groups of parameters over ranks; its accessors reassemble one parameter. They have no moments
before the first update and none of stage 0, cannot set parameters that do not divide evenly under stage 3, and do not
update the weights of the forward pass: that is added here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.parallel.sharded_adamw import MOMENTS

MASTER = "master"


class ZeroState:
    """The states of an engine whose optimiser is torch's AdamW. All ranks must call its methods together."""

    def __init__(self, engine: Any, stage: int) -> None:
        self._engine, self._stage = engine, stage
        module: nn.Module = engine.module
        self._trained = {
            name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        self._make_moments()

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return inner

    @torch.no_grad()
    def read(self) -> dict[str, dict[str, Tensor]]:
        """Master weights and both moments by kind and name, fp32, in the shapes of this rank's shard."""
        return {
            kind: {name: self._read(parameter, kind) for name, parameter in self._trained.items()}
            for kind in (MASTER, *MOMENTS)
        }

    @torch.no_grad()
    def write(self, states: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Restore what `read` returned after `steps` steps, and set the weights of the forward pass to the masters'."""
        for kind in (MASTER, *MOMENTS):
            for name, parameter in self._trained.items():
                self._write(parameter, kind, states[kind][name])
        for flat in self._flat_masters():
            self._adamw.state[flat]["step"].fill_(float(steps))
        self._compute_with_masters(states[MASTER])

    def _flat_masters(self) -> list[Tensor]:
        """The tensors that AdamW updates; stage 3 passes them to it one by one, and only during a step."""
        if self._stage == 3:
            flat: list[Tensor] = self._engine.optimizer.fp32_partitioned_groups_flat
            return flat
        return [tensor for group in self._adamw.param_groups for tensor in group["params"]]

    def _make_moments(self) -> None:
        """Make zero moments, as AdamW starts with.

        DeepSpeed links moments to parameters when the first of its groups has been stepped, so those of the others, which
        come later, would never be found.
        """
        for flat in self._flat_masters():
            self._adamw.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32),
                **{kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS},
            }
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _read(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage == 0:
            return (parameter if kind == MASTER else self._adamw.state[parameter][kind]).detach().clone()
        whole: Tensor = (
            safe_get_full_fp32_param(parameter)
            if kind == MASTER
            else safe_get_full_optimizer_state(parameter, kind)
        )
        return whole

    def _write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        if self._stage == 0:
            (parameter if kind == MASTER else self._adamw.state[parameter][kind]).copy_(value)
        elif self._stage == 3:
            own = _own_part(parameter, value)
            if kind == MASTER:
                safe_set_local_fp32_param(parameter, own)
            else:
                safe_set_local_optimizer_state(parameter, own, kind)
        elif kind == MASTER:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)

    def _compute_with_masters(self, masters: Mapping[str, Tensor]) -> None:
        if self._stage in (1, 2):
            self._engine.optimizer.update_lp_params()
        elif self._stage == 3:
            from deepspeed.runtime.zero import GatheredParameters

            for name, parameter in self._trained.items():
                with GatheredParameters([parameter], modifier_rank=0):
                    if dist.get_rank() == 0:
                        parameter.copy_(masters[name])


def _own_part(parameter: nn.Parameter, whole: Tensor) -> Tensor:
    """This rank's part of a parameter under stage 3: equal parts, the last filled up with zeros."""
    size, group = parameter.ds_tensor.numel(), parameter.ds_process_group  # type: ignore[attr-defined]
    filled = F.pad(whole.flatten(), (0, size * dist.get_world_size(group) - whole.numel()))
    return filled.narrow(0, size * dist.get_rank(group), size)
