"""DeepSpeed's pipeline (PipelineModule, 1F1B) as the engine of pp x dp, with ep and ZeRO 1: for comparison with torch's.

Each rank's `Stage` is the one layer that DeepSpeed's pipeline has there; a tied embedding is its tied weight. Auxiliary losses
are attached to the layers that they belong to, so stages hand on only the stream, and where rows are packed the positions and
documents, which this pipeline sends along. What it cannot, and so what training uses, is docs/concepts/parallel.md's subject. Knows
nothing of data or files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.data.batches.batch import PADDING
from model.layers.moe.balance import balance_experts
from model.layers.moe.layer import count_tokens_only, set_loss_scale
from model.layers.recompute import Checkpointing
from model.parallel.collectives import sum_over
from model.parallel.mesh.mesh import MeshError, check, check_schedule
from model.parallel.mesh.processes import Processes, naming_lost_ranks, own_device
from model.parallel.mesh.shards import load
from model.parallel.pipeline import require_even
from model.parallel.stage import Stage
from model.parallel.tensor import IGNORED, cross_entropy_sum
from model.parallel.trainer import next_token_targets
from model.parallel.zero.engine import ZeroConfig, import_deepspeed, make_engine
from model.training.config.recipe import Recipe
from model.training.optim.choice import set_learning_rate

TIED = "ends"  # the key under which DeepSpeed ties the first and the last layer


class ZeroPipelineTrainer:
    """Trains a model whose whole weights are `state` through DeepSpeed's pipeline. All ranks make one and step together.

    Raises MeshError for meshes without a pipeline or with tp, and for all but ZeRO 1 in fp32 without offload.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        processes: Processes,
        recipe: Recipe | None = None,
        *,
        zero: ZeroConfig | None = None,
        n_micro_batches: int | None = None,
        checkpointing: Checkpointing = "none",
    ) -> None:
        mesh, zero = processes.mesh, zero or ZeroConfig()
        n_micro_batches = n_micro_batches or mesh.pp
        check(config, mesh)
        check_schedule(mesh, n_micro_batches=n_micro_batches, n_chunks=1)
        _require_supported(processes, zero)
        self.config, self.processes, self.recipe = config, processes, recipe or Recipe()
        self.n_micro_batches, self.steps = n_micro_batches, 0
        stage = Stage(config, mesh, processes.at, ep_group=processes.group("ep"))
        load(stage, state, mesh, processes.at, own_device())
        stage.train()
        stage.checkpointing = checkpointing
        set_loss_scale(stage, 1.0 / n_micro_batches)
        self.stages = [stage]
        self._scale = torch.ones((), device=stage.device)
        piped = _pipeline_module(stage, self._scaled_loss)
        self.engine = make_engine(piped, stage, processes, self.recipe, zero, n_micro_batches)
        self._shape: tuple[int, ...] = ()

    def step(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> Tensor:
        """One update on this data parallel rank's rows; returns the mean loss of the whole step, fp32, on all ranks.

        Ranks that differ only on pp must be given the same rows; both or none of the packing must be given.
        """
        dp, n = self.processes.group("dp"), self.n_micro_batches
        require_even(tokens_BS.shape[0], n)
        targets_BS = next_token_targets(tokens_BS) if targets_BS is None else targets_BS
        given = [tokens_BS, *(x for x in (positions_BS, documents_BS) if x is not None)]
        inputs = list(zip(*(tensor.chunk(n) for tensor in given), strict=True))
        batches = [
            (parts if len(parts) > 1 else parts[0], targets)
            for parts, targets in zip(inputs, targets_BS.chunk(n), strict=True)
        ]
        with naming_lost_ranks():
            # the engine averages over micro-batches and dp
            n_scored = sum_over((targets_BS != IGNORED).sum(), dp)
            self._scale = n * self.processes.mesh.dp / n_scored
            set_learning_rate(self.engine.optimizer, self.recipe.learning_rate_at(self.steps))
            self._expect(tuple(tokens_BS.shape))
            loss: Tensor = self.engine.train_batch(iter(batches))
            balance_experts(self.stages[0], self.recipe.balance_rate, group=dp)
            self.steps += 1
            return loss.float()

    def _expect(self, shape: tuple[int, ...]) -> None:
        """Stages tell one another the shape of what they send once only."""
        if shape != self._shape:
            self.engine.reset_activation_shape()
            self._shape = shape

    def _scaled_loss(self, logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
        return cross_entropy_sum(logits_BSV.flatten(0, 1), targets_BS.flatten(), 0, None) * self._scale


class _Piped(nn.Module):
    """A stage as a layer of DeepSpeed's pipeline: ids or stream, with the packing if there is any, to the same or logits."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        x, *packing = inputs if isinstance(inputs, tuple) else (inputs,)
        positions_BS, documents_BS = packing if packing else (None, None)
        is_token_BS = None if documents_BS is None else documents_BS != PADDING
        with count_tokens_only(self.stage, is_token_BS):
            x_BSD = self.stage.stream(x, rows=x, positions_BS=positions_BS, documents_BS=documents_BS)
        if self.stage.is_last:
            return self.stage.local_logits(x_BSD)
        return (x_BSD, *packing) if packing else x_BSD


def _require_supported(processes: Processes, zero: ZeroConfig) -> None:
    mesh = processes.mesh
    if mesh.pp == 1 or mesh.tp > 1:
        raise MeshError(
            f"DeepSpeed's pipeline is given pp with dp and ep, not {mesh}: use pp of at least 2, and tp=1"
        )
    if zero.stage == 0:
        raise MeshError(
            "DeepSpeed's pipeline clips by another norm than one process under ZeRO 0: use stage 1"
        )
    if zero.stage > 1 or zero.offload or zero.is_bf16:
        raise MeshError(
            "DeepSpeed's pipeline goes with no ZeRO 2 or 3, and is given fp32 without offload here: train pipelines "
            "in bf16 by ParallelTrainer, and ZeRO 2 and 3 without pp"
        )


def _pipeline_module(stage: Stage, loss: Any) -> nn.Module:
    """Of one layer per stage, of which each rank builds its own."""
    import_deepspeed(stage.device)
    from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec

    ends = (0, stage.n_stages - 1) if stage.config.tie_embeddings else ()
    layers = [
        TiedLayerSpec(TIED, _Piped, stage, tied_weight_attr="stage.embedding")
        if layer in ends
        else LayerSpec(_Piped, stage)
        for layer in range(stage.n_stages)
    ]
    with torch.no_grad(), redirect_stdout(sys.stderr):  # it sends tied weights, and prints
        module: nn.Module = PipelineModule(
            layers,
            num_stages=stage.n_stages,
            loss_fn=loss,
            partition_method="uniform",
            activation_checkpoint_interval=0,
        )
    for name, parameter in stage.named_parameters():  # DeepSpeed takes all of a tied layer for copies
        is_copy = bool(ends) and stage.is_last and name == "embedding"
        parameter.ds_pipe_replicated = is_copy  # type: ignore[attr-defined]
    return module
