"""DeepSpeed as the engine of the data parallel axis: ZeRO 0 to 3, bf16, offload, with this package's experts.

DeepSpeed (arXiv:1910.02054, arXiv:2101.06840) shards optimiser states, gradients and weights over dp; expert
parallelism is `expert.py`'s, whose parameters DeepSpeed is told to reduce over the expert-data axis (ZeRO 0 to 2; it
refuses experts under ZeRO 3). It does not know this package's tensor and pipeline axes: those are `trainer.py`'s.
What else DeepSpeed refuses stands in docs/parallel.md. Knows nothing of data or files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.balance import balance_experts
from model.layers.moe import set_loss_scale
from model.parallel.collectives import sum_over
from model.parallel.expert import ParallelExperts
from model.parallel.mesh import MeshError, check
from model.parallel.processes import Processes, naming_lost_ranks, own_device
from model.parallel.shards import load
from model.parallel.stage import Stage
from model.parallel.tensor import IGNORED
from model.parallel.trainer import next_token_targets
from model.training.optimizer import set_learning_rate
from model.training.recipe import Recipe


@dataclass(frozen=True)
class ZeroConfig:
    """`stage`: 1 shards optimiser states, 2 gradients too, 3 weights too. `offload` keeps states in the host's memory.

    `is_bf16` trains bf16 weights with an fp32 master copy; embedding, head and norms are bf16 as well then.
    """

    stage: int = 1
    offload: bool = False
    is_bf16: bool = False

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise MeshError(f"ZeRO has stages 0 to 3, not {self.stage}")
        if self.offload and self.stage == 0:
            raise MeshError("offload needs ZeRO 1, 2 or 3: without sharding there is nothing to offload")


class ZeroTrainer:
    """Trains a model whose whole weights are `state` through a DeepSpeed engine. All dp ranks make one and step together.

    Raises MeshError for meshes with tp or pp, which DeepSpeed is not given here, and for experts under ZeRO 3.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        processes: Processes,
        recipe: Recipe | None = None,
        *,
        zero: ZeroConfig | None = None,
        n_micro_batches: int = 1,
    ) -> None:
        self.zero, self.recipe = zero or ZeroConfig(), recipe or Recipe()
        _require_supported(config, processes, self.zero)
        self.config, self.processes, self.n_micro_batches = config, processes, n_micro_batches
        mesh = processes.mesh
        stage = Stage(config, mesh, processes.at, ep_group=processes.group("ep"))
        load(stage, state, mesh, processes.at, own_device())
        stage.train()
        # the engine averages gradients over dp; its division of the loss does not reach auxiliary losses' gradients
        set_loss_scale(stage, 1.0 / n_micro_batches)
        experts = _mark_experts(stage, mesh.ep)
        self.engine = _engine(stage, experts, self.recipe, self.zero, n_micro_batches)
        self.steps = 0

    def step(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> Tensor:
        """One update on this rank's rows; returns the mean loss of the whole step, fp32, on all ranks."""
        with naming_lost_ranks():
            return self._step(tokens_BS, targets_BS, positions_BS=positions_BS, documents_BS=documents_BS)

    def _step(self, tokens_BS: Tensor, targets_BS: Tensor | None, **packing: Tensor | None) -> Tensor:
        dp, n = self.processes.group("dp"), self.n_micro_batches
        targets_BS = next_token_targets(tokens_BS) if targets_BS is None else targets_BS
        n_scored = sum_over((targets_BS != IGNORED).sum(), dp)
        set_learning_rate(self.engine.optimizer, self.recipe.learning_rate_at(self.steps))
        pieces = {name: tensor.chunk(n) for name, tensor in packing.items() if tensor is not None}
        total = torch.zeros((), device=tokens_BS.device)
        for i, (tokens, targets) in enumerate(zip(tokens_BS.chunk(n), targets_BS.chunk(n), strict=True)):
            loss = self.engine(
                tokens, targets_BS=targets, **{name: piece[i] for name, piece in pieces.items()}
            )
            loss = loss / n_scored
            total += loss.detach()
            self.engine.backward(loss * (n * self.processes.mesh.dp))
            self.engine.step()
        balance_experts(self.engine.module, self.recipe.balance_rate, group=dp)
        self.steps += 1
        return sum_over(total, dp)

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's shard in the engine's dtype, ZeRO-3 weights gathered, under the whole model's names."""
        import deepspeed

        stage: Stage = self.engine.module
        with deepspeed.zero.GatheredParameters(list(stage.parameters()), enabled=self.zero.stage == 3):
            return {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}


def _require_supported(config: ModelConfig, processes: Processes, zero: ZeroConfig) -> None:
    mesh = processes.mesh
    check(config, mesh)
    if mesh.tp > 1 or mesh.pp > 1:
        raise MeshError(
            f"DeepSpeed is given the dp and ep axes only, not {mesh}: use ParallelTrainer for tp and pp"
        )
    if zero.stage == 3 and mesh.ep > 1:
        raise MeshError("DeepSpeed refuses expert parallelism under ZeRO 3: use stage 2, or ep=1")


def _mark_experts(stage: Stage, ep: int) -> list[nn.Parameter]:
    """Tells DeepSpeed which parameters are experts: they are reduced over the expert-data axis only."""
    if ep == 1:
        return []
    experts = [parameter for parameter in stage.parameters() if parameter in stage.expert_parameters()]
    for parameter in experts:
        parameter.allreduce = False  # type: ignore[attr-defined]  # DeepSpeed's marks
        parameter.group_name = f"ep_size_{ep}"  # type: ignore[attr-defined]
    return experts


def _engine(
    stage: Stage, experts: list[nn.Parameter], recipe: Recipe, zero: ZeroConfig, n_micro_batches: int
) -> Any:
    """A DeepSpeed engine over torch's AdamW, whose rule for decay is that of model/training/optimizer.py."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.utils import groups

    # DeepSpeed would compile a shared-memory extension for the CPU here, minutes long, and a killed build's lock makes the
    # next run wait for ever: collectives stay torch's
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
    if experts:
        ep = int(experts[0].group_name.rpartition("_")[2])  # type: ignore[attr-defined]
        if experts[0].group_name not in groups._get_expert_parallel_group_dict():  # type: ignore[attr-defined]
            groups._create_expert_and_data_parallel(ep)
        _declare_moe(stage)
    engine, _, _, _ = deepspeed.initialize(
        model=stage,
        optimizer=torch.optim.AdamW(
            _parameter_groups(stage, set(experts), recipe),
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.eps,
        ),
        config={
            "train_micro_batch_size_per_gpu": 1,  # counts nothing here: the loss is scaled by targets
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
    return engine


def _declare_moe(stage: Stage) -> None:
    """DeepSpeed looks for modules of its own MoE class; experts of this package are made such, by name only."""
    from deepspeed.moe.layer import MoE

    declared = type("DeclaredExperts", (ParallelExperts, MoE), {})
    for module in stage.modules():
        if isinstance(module, ParallelExperts):
            module.num_experts = module.n_local * module.n_ranks  # type: ignore[assignment]
            module.set_deepspeed_parallelism = lambda *_: None  # type: ignore[assignment]  # groups exist already
            module.__class__ = declared


def _parameter_groups(stage: Stage, experts: set[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices and their stacks decay, vectors do not; experts are a group of their own, as ZeRO asks."""
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
