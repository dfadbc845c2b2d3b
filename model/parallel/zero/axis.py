"""DeepSpeed as the engine of the data parallel axis: ZeRO 0 to 3, bf16, offload, with this package's experts.

DeepSpeed (arXiv:1910.02054, arXiv:2101.06840) shards optimiser states, gradients and weights over dp; expert
parallelism is that of `expert.py`, whose parameters DeepSpeed reduces over the expert-data axis (ZeRO 0 to 2; it
refuses experts under ZeRO 3). Tensor and pipeline axes need `trainer.py`. docs/concepts/parallel.md lists further limits
of DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.data.batches.batch import IGNORED, Batch
from model.layers.moe.balance import balance_experts
from model.layers.recompute import Checkpointing
from model.parallel.collectives import sum_over
from model.parallel.mesh.mesh import MeshError, check, check_zero
from model.parallel.mesh.processes import Processes, naming_lost_ranks, own_device
from model.parallel.mesh.shards import layouts_of_stage, load
from model.parallel.pipeline import require_even, summed_loss
from model.parallel.stage import Stage
from model.parallel.trainer import tokens_of
from model.parallel.zero.engine import ZeroConfig, make_engine
from model.parallel.zero.state import ZeroState
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_targets
from model.training.losses.objective import packing_of
from model.training.optim.choice import set_learning_rate
from model.training.run.errors import require_finite


class ZeroTrainer:
    """Trains a model whose whole weights are `state` through a DeepSpeed engine. All dp ranks must make one
    and step together.

    `n_micro_batches` cuts each batch; `device` is `ParallelTrainer`'s. Raises MeshError for meshes with tp or pp, which
    DeepSpeed is not given here, and for experts under ZeRO 3.
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
        device: torch.device | None = None,
        checkpointing: Checkpointing = "none",
    ) -> None:
        self.zero, self.recipe = zero or ZeroConfig(), recipe or Recipe()
        mesh = processes.mesh
        check(config, mesh)
        check_zero(mesh, self.zero.stage)
        self.config, self.processes, self.n_micro_batches = config, processes, n_micro_batches
        stage = Stage(config, mesh, processes.at, ep_group=processes.group("ep"))
        load(stage, state, mesh, processes.at, device or own_device())
        stage.train()
        stage.checkpointing = checkpointing
        self.stages = [stage]
        self.engine = make_engine(stage, processes, self.recipe, self.zero, n_micro_batches)
        self._state = ZeroState(self.engine, self.zero.stage)
        self.steps = 0

    def step(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> Tensor:
        """Make one update on this rank's rows; returns the mean loss of the whole step, fp32, on all ranks."""
        given = {"positions_BS": positions_BS, "documents_BS": documents_BS}
        packing = {name: tensor for name, tensor in given.items() if tensor is not None}
        packing |= tokens_of(documents_BS)
        targets_BS = next_token_targets(tokens_BS) if targets_BS is None else targets_BS
        with naming_lost_ranks():
            loss = self._engine_step(tokens_BS, targets_BS, packing, self.recipe.learning_rate_at(self.steps))
            self._count_step()
            return loss

    def update(self, batch: Batch, learning_rate: float, *, is_packed: bool) -> tuple[float, float]:
        """As `ParallelTrainer.update`: loss and gradient norm, before clipping. Raises MeshError under stage 0.

        `is_packed` must be that of the whole batch. Raises NotFiniteError on all ranks before anything was updated: a
        non-finite loss has non-finite gradients, and DeepSpeed skips such an update.
        """
        if self.zero.stage == 0:
            raise MeshError(
                "DeepSpeed does not report the gradients' norm under ZeRO 0: use 1, 2 or 3, or ParallelTrainer"
            )
        packing = packing_of(batch, self.stages[0], is_packed=is_packed) | tokens_of(batch.documents_BS)
        with naming_lost_ranks():
            loss = float(self._engine_step(batch.tokens_BS, batch.targets_BS, packing, learning_rate))
            norm = float(self.engine.get_global_grad_norm())
            require_finite(self.steps, loss, norm)
            self._count_step()
            return loss, norm

    def summed_loss(self, batch: Batch, *, is_packed: bool) -> float:
        """Sum of the loss in nats over all scored positions of all ranks' rows, without an update; on all ranks."""
        packing = packing_of(batch, self.stages[0], is_packed=is_packed)
        with naming_lost_ranks():
            loss = summed_loss(self.stages, self.processes, batch.tokens_BS, batch.targets_BS, packing)
            return float(sum_over(loss, self.processes.group("dp")))

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's shard in the engine's dtype, ZeRO-3 weights gathered, under the whole model's names."""
        import deepspeed

        stage: Stage = self.engine.module
        with deepspeed.zero.GatheredParameters(list(stage.parameters()), enabled=self.zero.stage == 3):
            return {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}

    def training_state(self) -> dict[str, Any]:
        """As `ParallelTrainer.training_state`, in the same form: either can load the other's. All ranks must call it."""
        return {"steps": self.steps, "model": self.state_dict(), "optimiser": self._state.read()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` returned on this rank, or was cut for it. All ranks must call it together.

        Raises MeshError where a weight is missing or of another shape.
        """
        mesh = self.processes.mesh
        for name, layout in layouts_of_stage(self.engine.module, mesh).items():
            given, shape = state["model"].get(name), layout.local_shape(mesh)
            if given is None or given.shape != shape:
                raise MeshError(f"the saved shard has no {name} of shape {shape}: it is of another mesh")
        for name, buffer in self.engine.module.named_buffers():
            if name in state["model"]:
                buffer.copy_(state["model"][name])
        self.steps = state["steps"]
        self._state.write(state["optimiser"], self.steps)

    def _engine_step(
        self, tokens_BS: Tensor, targets_BS: Tensor, packing: dict[str, Tensor], learning_rate: float
    ) -> Tensor:
        """Compute clipped gradients of the mean loss of the whole step and update; returns that loss."""
        dp, n = self.processes.group("dp"), self.n_micro_batches
        require_even(tokens_BS.shape[0], n)
        n_scored = sum_over((targets_BS != IGNORED).sum(), dp)
        set_learning_rate(self.engine.optimizer, learning_rate)
        # the engine averages gradients over dp; its division of the loss does not reach auxiliary losses' gradients
        self.stages[0].target_share = self.processes.mesh.dp / n_scored
        pieces = {name: tensor.chunk(n) for name, tensor in packing.items()}
        total = torch.zeros((), device=tokens_BS.device)
        for i, (tokens, targets) in enumerate(zip(tokens_BS.chunk(n), targets_BS.chunk(n), strict=True)):
            loss = self.engine(
                tokens, targets_BS=targets, **{name: piece[i] for name, piece in pieces.items()}
            )
            loss = loss / n_scored
            total += loss.detach()
            self.engine.backward(loss * (n * self.processes.mesh.dp))
            self.engine.step()
        return sum_over(total, dp)

    def _count_step(self) -> None:
        balance_experts(self.engine.module, self.recipe.balance_rate, group=self.processes.group("dp"))
        self.steps += 1
