"""Trainer on a mesh of ranks; the parallel counterpart of `model/training/run/trainer.py`.

At equal weights and batches its losses are those of the single process up to rounding. What the MoE layers do with a
whole batch (capacity, the switch loss) they do with the micro-batches of one data parallel rank, as in every engine: so
does a single process with as many micro-batches as all ranks together have. Padding is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.data.batches.batch import IGNORED, PADDING, Batch
from model.layers.moe.balance import balance_experts
from model.layers.recompute import Checkpointing
from model.parallel.collectives import sum_over
from model.parallel.gradients import Gradients
from model.parallel.mesh.mesh import MeshError, check
from model.parallel.mesh.processes import Processes, naming_lost_ranks, own_device
from model.parallel.mesh.shards import load
from model.parallel.pipeline import runner, summed_loss
from model.parallel.sharded_adamw import ShardedAdamW
from model.parallel.stage import Stage
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_targets
from model.training.losses.objective import packing_of
from model.training.optim.choice import set_learning_rate
from model.training.run.errors import require_finite


def tokens_of(documents_BS: Tensor | None) -> dict[str, Tensor]:
    """Arguments of stages in addition to the packing: the mask of tokens, if the batch has padding."""
    if documents_BS is None:
        return {}
    is_token_BS = documents_BS != PADDING
    return {} if bool(is_token_BS.all()) else {"is_token_BS": is_token_BS}


class ParallelTrainer:
    """Trains this rank's shard of a model whose whole weights are `state`. All ranks must make one and step together.

    `n_micro_batches` cuts each batch; with a pipeline it must be at least `pp`. `n_chunks` above one gives each rank
    that many pipeline stages, interleaved. `device` is CUDA's of the local rank where there is CUDA, else the CPU;
    batches must be there. `shards_states` spreads the optimiser's states over dp (ZeRO 1). `splits_sequence` splits the
    residual stream over tp by positions. Raises MeshError where the mesh does not fit the model.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        processes: Processes,
        recipe: Recipe | None = None,
        *,
        n_micro_batches: int | None = None,
        n_chunks: int = 1,
        device: torch.device | None = None,
        block_dtype: torch.dtype = torch.float32,
        checkpointing: Checkpointing = "none",
        shards_states: bool = False,
        splits_sequence: bool = False,
    ) -> None:
        mesh = processes.mesh
        check(config, mesh, n_chunks=n_chunks, splits_sequence=splits_sequence)
        self.config, self.processes, self.recipe = config, processes, recipe or Recipe()
        self.device = device or own_device()
        self.stages = [
            self._stage(state, block_dtype, chunk=chunk, n_chunks=n_chunks, splits_sequence=splits_sequence)
            for chunk in range(n_chunks)
        ]
        for stage in self.stages:
            stage.checkpointing = checkpointing
        self.runner = runner(self.stages, processes, n_micro_batches or mesh.pp)
        self.gradients = Gradients(self.stages, processes)
        self.optimizer = ShardedAdamW(
            self.gradients.trained, processes, self.recipe, is_sharded=shards_states
        )
        self.steps = 0

    def step(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> Tensor:
        """Make one update on this data parallel rank's rows; returns the mean loss of the whole step, fp32, on all ranks.

        Ranks that differ only on tp and pp must be given the same rows. Raises RankMissingError where a rank is lost.
        """
        given = {"positions_BS": positions_BS, "documents_BS": documents_BS}
        packing = {name: tensor for name, tensor in given.items() if tensor is not None}
        packing |= tokens_of(documents_BS)
        targets_BS = next_token_targets(tokens_BS) if targets_BS is None else targets_BS
        with naming_lost_ranks():
            loss, _ = self._gradients(tokens_BS, targets_BS, packing)
            self._apply(self.recipe.learning_rate_at(self.steps))
            return loss

    def update(self, batch: Batch, learning_rate: float, *, is_packed: bool) -> tuple[float, float]:
        """As `step`, on this rank's rows of a batch; returns loss and gradient norm, before clipping, on all ranks.

        `is_packed` must be that of the whole batch. Raises NotFiniteError on all ranks before anything has moved.
        """
        with naming_lost_ranks():
            packing = packing_of(batch, self.stages[0], is_packed=is_packed) | tokens_of(batch.documents_BS)
            loss, norm = self._gradients(batch.tokens_BS, batch.targets_BS, packing)
            figures = float(loss), float(norm)
            require_finite(self.steps, *figures)
            self._apply(learning_rate)
            return figures

    def summed_loss(self, batch: Batch, *, is_packed: bool) -> float:
        """Sum of the loss in nats over all scored positions of all ranks' rows, without an update; on all ranks."""
        with naming_lost_ranks():
            packing = packing_of(batch, self.stages[0], is_packed=is_packed)
            loss = summed_loss(self.stages, self.processes, batch.tokens_BS, batch.targets_BS, packing)
            return float(self._over_ranks(loss))

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's shard, under the whole model's names; see `shards.merge`."""
        return {name: tensor for stage in self.stages for name, tensor in stage.state_dict().items()}

    def training_state(self) -> dict[str, Any]:
        """This rank's training state, as plain tensors for `torch.save`. All ranks must call it together."""
        return {"steps": self.steps, "model": self.state_dict(), "optimiser": self.optimizer.state()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` returned on this rank, or was cut for it. All ranks must call it together.

        Raises MeshError where a weight is missing or of another shape.
        """
        for stage in self.stages:
            for name, own in stage.state_dict().items():
                given = state["model"].get(name)
                if given is None or given.shape != own.shape:
                    raise MeshError(
                        f"the saved shard has no {name} of shape {tuple(own.shape)}: it is of another mesh"
                    )
                own.copy_(given)
        self.steps = state["steps"]
        self.optimizer.load_state(state["optimiser"], self.steps)

    def _gradients(
        self, tokens_BS: Tensor, targets_BS: Tensor, packing: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients of the mean loss of the whole step; returns that loss, and the norm before clipping."""
        n_scored = sum_over((targets_BS != IGNORED).sum(), self.processes.group("dp"))
        self.optimizer.zero_grad()
        loss = self.runner.run(tokens_BS, targets_BS, 1.0 / n_scored, packing)
        self.gradients.add_up()
        norm = self.gradients.clip(self.recipe.clip_norm)
        return self._over_ranks(loss), norm

    def _apply(self, learning_rate: float) -> None:
        set_learning_rate(self.optimizer.optimizer, learning_rate)
        self.optimizer.step()
        for stage in self.stages:
            balance_experts(stage, self.recipe.balance_rate, group=self.processes.group("dp"))
        self.steps += 1

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """Sum over rows and stages; tensor parallel ranks have all of it."""
        return sum_over(sum_over(loss, self.processes.group("dp")), self.processes.group("pp"))

    def _stage(self, state: Mapping[str, Tensor], block_dtype: torch.dtype, **options: Any) -> Stage:
        processes = self.processes
        groups: dict[str, Any] = {"tp_group": processes.group("tp"), "ep_group": processes.group("ep")}
        stage = Stage(self.config, processes.mesh, processes.at, **groups, **options)
        stage.cast_blocks(block_dtype)
        load(stage, state, processes.mesh, processes.at, self.device)
        stage.train()
        return stage
