"""One rank's part of a model that several ranks serve: its heads, feed-forward widths, vocabulary and experts.

Tensor parallel ranks split heads, dense and shared feed-forwards and the vocabulary (Megatron-LM, arXiv:1909.08053);
expert parallel ranks split the routed experts. Both axes use the *same* ranks, `max(tensor, expert)` of them
(parallel folding, arXiv:2504.14960), since a served step has one residual stream that all ranks hold whole: rows
for a rank's experts are picked from it and sums are added up again, with one all-reduce and no all-to-all. Where
there are fewer expert parallel ranks than tensor parallel ones, experts are split by width too; where there are
more, attention is computed on each group of tensor parallel ranks alike.

Cuts come from `model/parallel`; unlike in training, the vocabulary may be uneven and multi-token prediction is left
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig, MoEConfig
from model.layers.attention.gqa import Attention
from model.layers.attention.mla import MLA
from model.layers.block import Block
from model.layers.moe.layer import Experts, MoELayer
from model.layers.sharing import is_lent
from model.layers.unfilled import unfilled
from model.parallel import tensor
from model.parallel.collectives import Group, sum_over
from model.parallel.mesh.mesh import Mesh, MeshError, refusals
from model.parallel.mesh.shards import layouts
from model.parallel.mesh.share import local_config, local_experts
from model.parallel.residual import WholeResidual
from model.transformer import Transformer

VOCABULARY = ("embedding", "head")


@dataclass(frozen=True)
class Degrees:
    """Degrees of tensor and expert parallelism. One must divide the other, else MeshError."""

    tensor: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        low, high = sorted((self.tensor, self.expert))
        if low < 1 or high % low:
            raise MeshError(
                f"tensor parallel {self.tensor} and expert parallel {self.expert} use the same ranks: both must be "
                "at least 1, and one a multiple of the other"
            )

    @property
    def n_ranks(self) -> int:
        return max(self.tensor, self.expert)

    @property
    def heads(self) -> Mesh:
        """Mesh of everything but routed experts; a rank is at `rank % tensor` on it."""
        return Mesh(tp=self.tensor)

    @property
    def experts(self) -> Mesh:
        """Mesh of routed experts."""
        return Mesh(dp=self.expert, ep=self.expert, tp=self.n_ranks // self.expert)


@dataclass(frozen=True)
class Groups:
    """The process groups of a rank: all ranks, and those that share its attention; None where that is one rank."""

    world: Group = None
    tensor: Group = None


def check_degrees(config: ModelConfig, degrees: Degrees) -> None:
    """Raises MeshError with the first reason why the model cannot be split so."""
    even = _evenly_split(config, degrees.tensor)
    for mesh in (degrees.heads, degrees.experts):
        for reason in refusals(even, mesh):
            raise MeshError(
                f"{config.name} cannot be served with tensor parallel {degrees.tensor} and expert parallel "
                f"{degrees.expert}: {reason}"
            )


class LocalExperts(Experts):
    """Replaces a layer's `Experts`: the part of the sum that this rank's experts, from `first` on, contribute."""

    def __init__(self, config: MoEConfig, first: int) -> None:
        super().__init__(config)
        self.first = first

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """[T, D] -> this rank's part of the sum [T, D], fp32; zero where none of a token's experts is here."""
        local_N = experts_TK.flatten() - self.first
        rows_N = ((local_N >= 0) & (local_N < self.w_gate.shape[0])).nonzero().squeeze(-1)
        y_TD = torch.zeros(x_TD.shape, device=x_TD.device)
        if not rows_N.numel():
            return y_TD
        token_N = rows_N // experts_TK.shape[1]
        ones_N1 = torch.ones(len(rows_N), 1, device=x_TD.device)
        y_ND = super().forward(x_TD[token_N], ones_N1, local_N[rows_N, None])
        return y_TD.index_add_(0, token_N, y_ND.float() * weights_TK.flatten()[rows_N, None])


class ModelShard(Transformer):
    """A rank's part, made on the meta device by `shard_of`, whose `step` all ranks call together with the same parts.

    Keys and values are those of this rank's heads (`config` is the part's shape). Rank 0 gets all logits [N, V];
    the others' return values are meaningless.
    """

    def __init__(self, config: ModelConfig, degrees: Degrees, rank: int, groups: Groups) -> None:
        check_degrees(config, degrees)
        self_config = _evenly_split(config, degrees.tensor)
        with unfilled():
            super().__init__(local_config(self_config, degrees.tensor))
            self.whole_config, self.degrees, self.rank, self.groups = config, degrees, rank, groups
            for layer in self._moe_layers():
                layer.experts = _local_experts(cast("MoEConfig", config.moe), degrees, rank)

    @property
    def first_id(self) -> int:
        """The first token id of this rank's part of the embedding."""
        return self.rank % self.degrees.tensor * self.config.vocab_size

    def embed(self, tokens: Tensor) -> Tensor:
        return tensor.embed(tokens, self.embedding, self.first_id, WholeResidual(self.groups.tensor))

    def logits(self, x: Tensor) -> Tensor:
        """Rank 0: fp32 [N, V]. The head is computed by the ranks that share rank 0's attention."""
        if not len(x):
            return x.new_empty(0, self.whole_config.vocab_size, dtype=torch.float32)
        if self.rank >= self.degrees.tensor:
            return x.new_empty(len(x), 0, dtype=torch.float32)
        own_NV = super().logits(x)
        if self.groups.tensor is None:
            return own_NV
        parts = [torch.empty_like(own_NV) for _ in range(self.degrees.tensor)] if self.rank == 0 else None
        dist.gather(own_NV, parts, group=self.groups.tensor, group_dst=0)
        return own_NV if parts is None else torch.cat(parts, -1)[:, : self.whole_config.vocab_size]

    def _moe_layers(self) -> Iterator[MoELayer]:
        return (module for module in self.modules() if isinstance(module, MoELayer))


def shard_of(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    degrees: Degrees,
    rank: int,
    groups: Groups,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> ModelShard:
    """The part of `rank`, with its share of the whole model's weights `state`, its blocks in `dtype`, for inference.

    Copies what the rank needs only, so that a memory-mapped checkpoint may be larger than memory. Raises MeshError
    where the model cannot be split so, or a weight is missing or of another shape.
    """
    shard = ModelShard(config, degrees, rank, groups)
    shard.cast_blocks(dtype)
    shard.to_empty(device=device)
    for buffer in shard.buffers():  # counters of training; stored values follow
        buffer.zero_()
    shard.load_state_dict({name: _cut(shard, name, state) for name in shard.state_dict()})
    _add_up(shard)
    return shard.requires_grad_(False).eval()


def _cut(shard: ModelShard, name: str, state: Mapping[str, Tensor]) -> Tensor:
    if name not in state:
        raise MeshError(f"the checkpoint lacks {name}: it is of another model than {shard.config.name}")
    degrees = shard.degrees
    if name in VOCABULARY:
        n_ids = shard.config.vocab_size
        part_VD = state[name][shard.first_id : shard.first_id + n_ids]
        return F.pad(part_VD, (0, 0, 0, n_ids - len(part_VD)))
    whole = _evenly_split(shard.whole_config, degrees.tensor)
    if ".experts." in name:
        return layouts(whole, degrees.experts)[name].cut(
            state[name], degrees.experts, degrees.experts.coordinates(shard.rank)
        )
    place = degrees.heads.coordinates(shard.rank % degrees.tensor)
    return layouts(whole, degrees.heads)[name].cut(state[name], degrees.heads, place)


def _add_up(shard: ModelShard) -> None:
    """Sum the outputs of all split modules over the ranks that have parts of them."""
    groups, is_one_group = shard.groups, shard.degrees.tensor == shard.degrees.n_ranks
    for block in cast("list[Block]", list(shard.layers)):
        if not is_lent(block, "attention"):  # else it is another block's and visited there
            _sum_cached(block.attention, groups.tensor)
        if is_lent(block, "ffn"):
            continue
        if not isinstance(block.ffn, MoELayer):
            _sum_output(block.ffn, groups.tensor)
        elif is_one_group:  # routed and shared experts' parts are of the same ranks: one sum for both
            _sum_output(block.ffn, groups.world)
        else:
            _sum_output(block.ffn.experts, groups.world)
            if block.ffn.shared is not None:
                _sum_output(block.ffn.shared, groups.tensor)


def _sum_output(module: nn.Module, group: Group) -> None:
    def add_up(_: nn.Module, __: tuple[Any, ...], y: Tensor) -> Tensor:
        return sum_over(y.float().contiguous(), group)

    if group is not None:
        module.register_forward_hook(add_up)


def _sum_cached(attention: Attention | MLA, group: Group) -> None:
    """As `_sum_output`, for attention to a cache, which is a method that hooks do not see."""
    compute = attention.forward_cached

    def forward_cached(*arguments: Any, **named: Any) -> Tensor:
        return sum_over(compute(*arguments, **named).float().contiguous(), group)

    if group is not None:
        object.__setattr__(attention, "forward_cached", forward_cached)


def _local_experts(config: MoEConfig, degrees: Degrees, rank: int) -> LocalExperts:
    mesh = degrees.experts
    narrow = dataclasses.replace(config, d_expert=config.d_expert // mesh.tp)
    return LocalExperts(
        local_experts(narrow, mesh.ep), mesh.coordinates(rank).ep * config.n_experts // mesh.ep
    )


def _evenly_split(config: ModelConfig, n_parts: int) -> ModelConfig:
    """The configuration with a vocabulary that divides evenly, and without MTP modules."""
    return dataclasses.replace(config, vocab_size=-(-config.vocab_size // n_parts) * n_parts, n_ahead=0)
