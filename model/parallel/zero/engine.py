"""A DeepSpeed engine over one rank's part of the model: ZeRO 0 to 3, bf16 and offload over torch's AdamW.

DeepSpeed (arXiv:1910.02054, arXiv:2101.06840) shards optimiser states, gradients and weights over dp; parameters
that are marked as experts are reduced over the expert-data axis.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from model.parallel.expert import ParallelExperts
from model.parallel.mesh.mesh import Mesh, MeshError, check_zero
from model.parallel.mesh.processes import Processes
from model.parallel.stage import Stage
from model.training.config.recipe import Recipe


@dataclass(frozen=True)
class ZeroConfig:
    """Settings of ZeRO. `stage` 1 shards optimiser states, 2 gradients too, 3 weights too; `offload`: states on the host.

    `is_bf16` trains bf16 weights with an fp32 master copy; embedding, head and norms are bf16 as well then.
    """

    stage: int = 1
    offload: bool = False
    is_bf16: bool = False

    def __post_init__(self) -> None:
        check_zero(Mesh(), self.stage, offload=self.offload)
        if self.is_bf16 and self.stage == 0:
            raise MeshError("bf16 needs ZeRO 1, 2 or 3: stage 0 has no master weights to save")


def make_engine(
    stage: Stage, processes: Processes, recipe: Recipe, zero: ZeroConfig, n_micro_batches: int
) -> Any:
    """Make a DeepSpeed engine over torch's AdamW, with weight decay as in model/training/optim/choice.py."""
    deepspeed = import_deepspeed(stage.device)
    experts = _mark_experts(stage, processes)
    if experts:
        _declare_moe(stage)
    engine, _, _, _ = deepspeed.initialize(
        model=stage,
        optimizer=torch.optim.AdamW(
            _parameter_groups(stage, set(experts), recipe),
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.eps,
            fused=True,
        ),
        config={
            "train_micro_batch_size_per_gpu": 1,  # unused: the loss is scaled by targets
            "gradient_accumulation_steps": n_micro_batches,
            "gradient_clipping": recipe.clip_norm,
            "bf16": {"enabled": zero.is_bf16},
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": zero.stage,
                **({"offload_optimizer": {"device": "cpu"}} if zero.offload else {}),
            },
            "steps_per_print": 10**9,
        },
    )
    _limit_waits(engine, timedelta(seconds=processes.timeout_s))
    return engine


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed within the joined world, with its device in variables and its log on standard error."""
    # torchrun sets both; without torchrun all ranks are on one machine
    os.environ.setdefault("LOCAL_RANK", str(dist.get_rank()))
    n_local = os.environ.get("LOCAL_WORLD_SIZE", str(dist.get_world_size()))
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # without it DeepSpeed runs `numactl`, which raises PermissionError if PATH has a folder without permission
        os.environ.setdefault("LOCAL_SIZE", n_local)
    with redirect_stdout(sys.stderr):  # the logger keeps the stream of the import
        import deepspeed
    # DeepSpeed would compile a shared-memory extension for the CPU here, which takes minutes, and the lock of a killed
    # build makes the next run wait for ever: use torch's collectives
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
    return deepspeed


def _limit_waits(engine: Any, timeout: timedelta) -> None:
    """Limit the waits of DeepSpeed's own groups, where a rank would wait 30 minutes for one that hangs."""
    groups = [engine.seq_data_parallel_group]
    if engine.has_moe_layers:
        groups += [*engine.expert_parallel_group.values(), *engine.expert_data_parallel_group.values()]
    for group in groups:
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def _mark_experts(stage: Stage, processes: Processes) -> list[nn.Parameter]:
    """Mark experts for DeepSpeed: they are reduced over the expert-data axis only."""
    if processes.mesh.ep == 1:
        return []
    name = _expert_groups(processes)
    experts = [parameter for parameter in stage.parameters() if parameter in stage.expert_parameters()]
    for parameter in experts:
        parameter.allreduce = False  # type: ignore[attr-defined]  # DeepSpeed's marks
        parameter.group_name = name  # type: ignore[attr-defined]
    return experts


def _expert_groups(processes: Processes) -> str:
    """Name of DeepSpeed's groups along ep and edp, which it keeps by ep alone; those of another mesh are replaced."""
    from deepspeed.utils import groups

    mesh, rank = processes.mesh, processes.rank
    name = f"ep_size_{mesh.ep}"
    known = groups._get_expert_data_parallel_group_dict()
    if name in known and tuple(dist.get_process_group_ranks(known[name])) != mesh.group("edp", rank):
        known.pop(name)
        groups._get_expert_parallel_group_dict().pop(name)
    if name not in known:
        groups._create_expert_and_data_parallel(mesh.ep, pp_size=mesh.pp)
    return name


def _declare_moe(stage: Stage) -> None:
    """Make our experts appear as modules of DeepSpeed's MoE class, which it searches for by name."""
    from deepspeed.moe.layer import MoE

    declared = type("DeclaredExperts", (ParallelExperts, MoE), {})
    for module in stage.modules():
        if isinstance(module, ParallelExperts):
            module.num_experts = module.n_local * module.n_ranks  # type: ignore[assignment]
            module.set_deepspeed_parallelism = lambda *_: None  # type: ignore[assignment]  # groups exist already
            module.__class__ = declared


def _parameter_groups(stage: Stage, experts: set[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices and their stacks, not on vectors; experts are separate, as ZeRO needs."""
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    dense = [parameter for parameter in trained if parameter not in experts]
    parts: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in dense if parameter.ndim > 1],
            "weight_decay": recipe.weight_decay,
            "name": "decayed",
        },
        {
            "params": [parameter for parameter in dense if parameter.ndim <= 1],
            "weight_decay": 0.0,
            "name": "vectors",
        },
    ]
    if experts:
        name = next(iter(experts)).group_name  # type: ignore[attr-defined]
        ordered = [parameter for parameter in trained if parameter in experts]
        parts.append({"params": ordered, "weight_decay": recipe.weight_decay, "name": name, "moe": True})
    return [part for part in parts if part["params"]]
