"""One rank's part of the transformer: the layers of its pipeline stage, with its share of heads, widths and experts.

Parameter names are those of the whole model, so that shards of any mesh can be cut from, and put together to, the same
checkpoint (`mesh/shards.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.data.batches.batch import IGNORED
from model.layers.block import Block
from model.layers.moe.layer import MoELayer, count_tokens_only, set_loss_scale
from model.layers.recompute import Checkpointing
from model.layers.unfilled import unfilled
from model.parallel.collectives import Group
from model.parallel.expert import ParallelExperts
from model.parallel.mesh.mesh import Coordinates, Mesh, split_layers
from model.parallel.mesh.share import local_config
from model.parallel.residual import Residual, SplitResidual, WholeResidual
from model.parallel.tensor import cross_entropy_sum, embed, join_parts, split_modules
from model.transformer import Transformer


class RemoteBlock(nn.Module):
    """Placeholder for a block of another stage, without parameters; it is never called."""

    checkpointing: Checkpointing = "none"


class Stage(Transformer):
    """A pipeline stage: token ids or the previous stage's residual stream to the residual stream or, at the end, the loss.

    Made on the meta device: `shards.load` gives it weights. `tp_group` and `ep_group` are None for an axis of degree
    one, and for a shard that is only inspected. `splits_sequence` leaves each tensor parallel rank P of the stream's
    S positions; without, P is S.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        at: Coordinates,
        *,
        chunk: int = 0,
        n_chunks: int = 1,
        tp_group: Group = None,
        ep_group: Group = None,
        splits_sequence: bool = False,
    ) -> None:
        with unfilled():
            super().__init__(local_config(config, mesh.tp, mesh.etp))
            self.whole_config = config
            self.index, self.n_stages = chunk * mesh.pp + at.pp, mesh.pp * n_chunks
            self.own_layers = split_layers(config.n_layers, self.n_stages)[self.index]
            self.tp_group, self.first_id = tp_group, at.tp * self.config.vocab_size
            self.splits_sequence = splits_sequence
            self.target_share: float | Tensor = 1.0  # the caller's factor on the summed loss
            # with a split sequence all ranks route all tokens, and the gradients of their routers are summed
            self._n_routing = mesh.tp if splits_sequence else 1
            self.residual: Residual = (SplitResidual if splits_sequence else WholeResidual)(tp_group)
            self._spread_experts(mesh, ep_group)
        self._drop_other_stages()
        for module in self._split_modules():
            join_parts(module, self.residual)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.n_stages - 1

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def stream_dtype(self) -> torch.dtype:
        """Dtype of the residual stream between stages: the embedding's, fp32."""
        return torch.float32

    def stream_shape(self, n_rows: int, n_tokens: int) -> tuple[int, int, int]:
        """Shape [B, P, D] of the stream between stages, for rows of so many positions."""
        return n_rows, self.residual.n_own(n_tokens), self.config.d_model

    @property
    def blocks(self) -> list[Block]:
        """This stage's blocks, in order."""
        return [block for block in self.layers if isinstance(block, Block)]

    def forward(  # type: ignore[override]  # a stage is called by the parallel trainer, not as a model
        self,
        x: Tensor,
        *,
        targets_BS: Tensor,
        positions_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
        is_token_BS: Tensor | None = None,
    ) -> Tensor:
        """Ids [B, S] (first stage) or stream [B, P, D] to stream [B, P, D] or (last stage) the summed loss, scalar.

        Targets are ids, or -100 where a position is not scored; the last stage alone uses their values. For a batch with
        padding each micro-batch needs `is_token_BS`, see `count_tokens_only`. Auxiliary losses weigh as much as the
        micro-batch's targets, as in one process.
        """
        if self.training:
            n_targets = (targets_BS != IGNORED).sum()
            set_loss_scale(self, n_targets * self.target_share / self._n_routing)
        with count_tokens_only(self, is_token_BS):
            x_BPD = self.stream(x, rows=targets_BS, positions_BS=positions_BS, documents_BS=documents_BS)
        if not self.is_last:
            return x_BPD
        return cross_entropy_sum(
            self.local_logits(x_BPD).flatten(0, 1), targets_BS.flatten(), self.first_id, self.tp_group
        )

    def local_logits(self, x_BPD: Tensor) -> Tensor:
        """fp32 logits [B, S, V / tp] of this rank's part of the vocabulary; the last stage only."""
        return F.linear(self.residual.enter(self.norm(x_BPD)), self.head_weight).float()

    def expert_parameters(self) -> set[nn.Parameter]:
        """Parameters of routed experts: they are replicated over the expert-data axis only."""
        return {
            parameter
            for block in self.blocks
            if isinstance(block.ffn, MoELayer)
            for parameter in block.ffn.experts.parameters()
        }

    def stream(
        self, x: Tensor, *, rows: Tensor, positions_BS: Tensor | None, documents_BS: Tensor | None
    ) -> Tensor:
        """Ids [B, S] (first stage) or stream [B, P, D] to the stream after this stage's blocks, [B, P, D].

        `rows` is any tensor [B, S, ...] of whole rows.
        """
        rotation, spans = self.rotation_and_spans(rows, positions_BS, documents_BS)
        self.residual.begin(rows.shape[1])
        x_BPD = embed(x, self.embedding, self.first_id, self.residual) if self.is_first else x
        for block in self.blocks:
            x_BPD = block(x_BPD, rotation, spans[block.window])
        return x_BPD

    def _spread_experts(self, mesh: Mesh, group: Group) -> None:
        if mesh.ep == 1:
            return
        for block in self.blocks:
            if isinstance(block.ffn, MoELayer):
                block.ffn.experts = ParallelExperts(
                    block.ffn.config,
                    mesh.ep,
                    group,
                    self.tp_group,
                    is_folded=mesh.is_folded,
                    gives_share=self.splits_sequence,
                )

    def _drop_other_stages(self) -> None:
        for layer in set(range(len(self.layers))) - set(self.own_layers):
            self.layers[layer] = RemoteBlock()
        keeps_embedding = self.is_first or (self.is_last and self.head is None)
        if not self.is_last:
            self.norm = nn.Identity()  # type: ignore[assignment]
            self.head = None
        if not keeps_embedding:
            self.embedding = None  # type: ignore[assignment]

    def _split_modules(self) -> list[nn.Module]:
        """Split modules, each once however many layers share it."""
        split = (split_modules(block, splits_sequence=self.splits_sequence) for block in self.blocks)
        return list(dict.fromkeys(module for modules in split for module in modules))
