"""Mesh of data, tensor, pipeline and expert parallel ranks, and the checks that a model can be split over it.

Ranks are numbered with tensor parallel fastest, then data parallel, then pipeline slowest (Megatron's order,
arXiv:2104.04473), so that the ranks which communicate most are neighbours on one node:

    rank = (pipeline * dp + data) * tp + tensor

Expert parallel ranks are data parallel ranks: each run of `ep` neighbours along the data axis holds one whole set of
experts and exchanges tokens, so `ep` divides `dp` (DeepSpeed-MoE, arXiv:2201.05596). Everything else of the model is
replicated over `dp`; experts are replicated over the `dp / ep` ranks of the expert-data axis. Inside an expert the
feed-forward width is split over `tp` as in a dense feed-forward, unless the mesh is folded (`etp` 1, arXiv:2504.14960):
then experts are whole, and the runs of `ep` ranks go along data and tensor parallel ranks as if these were one axis, so
`ep` divides `dp * tp`, and neighbours on one node exchange tokens.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal, get_args

from model.config import ModelConfig

Axis = Literal["dp", "tp", "pp", "ep", "edp"]


class MeshError(ValueError):
    """An invalid mesh for a model or number of processes; the message names the rule and what to change."""


@dataclass(frozen=True)
class Coordinates:
    """Place of a rank on each axis; `ep` and `edp` are both derived from its place on the data axis.

    On a folded mesh they are its place along the data and the tensor axis together.
    """

    pp: int
    dp: int
    tp: int
    ep: int
    edp: int


@dataclass(frozen=True)
class Mesh:
    """Degrees of parallelism. `world_size` is dp * tp * pp; ep is inside dp, on a folded mesh inside dp * tp.

    `etp` is the number of ranks that split an expert's width: 1, or None for tp, which is kept as None too.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int | None = None

    def __post_init__(self) -> None:
        for axis, degree in asdict(self).items():
            if degree is not None and degree < 1:
                raise MeshError(f"{axis} must be at least 1, it is {degree}")
        if self.etp == self.tp:
            object.__setattr__(self, "etp", None)
        if self.etp not in (None, 1):
            raise MeshError(
                f"etp ({self.etp}) must be 1, for whole experts, or tp ({self.tp}), which splits their widths"
            )
        if self.is_folded:
            self._check_folded()
        elif self.dp % self.ep:
            raise MeshError(
                f"ep ({self.ep}) must divide dp ({self.dp}): experts are spread over data-parallel ranks"
                f"{', with etp=1 over tensor-parallel ones too' if self.tp > 1 else ''}"
            )

    def _check_folded(self) -> None:
        if self.dp * self.tp % self.ep:
            raise MeshError(
                f"ep ({self.ep}) must divide dp * tp ({self.dp * self.tp}): with etp=1 experts are spread over data- and "
                "tensor-parallel ranks"
            )
        if self.ep == 1:
            raise MeshError("etp=1 spreads whole experts over the ranks of dp and tp: give ep of at least 2")

    @classmethod
    def parse(cls, text: str) -> Mesh:
        """Parse `dp=2,tp=2,pp=2,ep=2`; axes that are not named are 1. Raises MeshError."""
        degrees: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            axis, _, degree = part.partition("=")
            if axis not in ("dp", "tp", "pp", "ep", "etp"):
                raise MeshError(f"unknown axis {axis!r} in {text!r}: write for example dp=2,tp=2,pp=1,ep=2")
            if axis in degrees:
                raise MeshError(f"axis {axis} is given twice in {text!r}")
            try:
                degrees[axis] = int(degree)
            except ValueError:
                raise MeshError(f"{axis} needs a whole number in {text!r}, not {degree!r}") from None
        return cls(**degrees)

    def __str__(self) -> str:
        return f"dp={self.dp},tp={self.tp},pp={self.pp},ep={self.ep}{',etp=1' if self.is_folded else ''}"

    @property
    def is_folded(self) -> bool:
        """Whether experts are whole and spread over the ranks of both dp and tp."""
        return self.etp is not None

    @property
    def world_size(self) -> int:
        return self.dp * self.tp * self.pp

    @property
    def edp(self) -> int:
        """Number of copies of each expert."""
        return (self.dp * self.tp if self.is_folded else self.dp) // self.ep

    def degree(self, axis: Axis) -> int:
        degree: int = getattr(self, axis)
        return degree

    def coordinates(self, rank: int) -> Coordinates:
        """Place of a rank. Raises MeshError for a rank outside of the mesh."""
        if not 0 <= rank < self.world_size:
            raise MeshError(f"rank {rank} is outside of {self}, which has {self.world_size} ranks")
        rest, tensor = divmod(rank, self.tp)
        pipeline, data = divmod(rest, self.dp)
        along = data * self.tp + tensor if self.is_folded else data
        return Coordinates(pp=pipeline, dp=data, tp=tensor, ep=along % self.ep, edp=along // self.ep)

    def rank(self, *, pp: int, dp: int, tp: int) -> int:
        for axis, place in (("pp", pp), ("dp", dp), ("tp", tp)):
            if not 0 <= place < getattr(self, axis):
                raise MeshError(f"{axis} place {place} is outside of {self}")
        return (pp * self.dp + dp) * self.tp + tp

    def group(self, axis: Axis, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` along `axis` only, in the order of their places on it."""
        if axis not in get_args(Axis):
            raise MeshError(f"unknown axis {axis!r}")
        here = self.coordinates(rank)
        if axis == "tp":
            return tuple(self.rank(pp=here.pp, dp=here.dp, tp=place) for place in range(self.tp))
        if axis == "pp":
            return tuple(self.rank(pp=place, dp=here.dp, tp=here.tp) for place in range(self.pp))
        if axis == "dp":
            return tuple(self.rank(pp=here.pp, dp=place, tp=here.tp) for place in range(self.dp))
        return self._expert_group(axis, here)

    def _expert_group(self, axis: Axis, here: Coordinates) -> tuple[int, ...]:
        """The group along the axis that experts are spread over: neighbours (ep), or every ep-th (edp)."""
        start = here.edp * self.ep
        along = range(start, start + self.ep) if axis == "ep" else range(here.ep, self.ep * self.edp, self.ep)
        if self.is_folded:
            first = here.pp * self.dp * self.tp
            return tuple(first + place for place in along)
        return tuple(self.rank(pp=here.pp, dp=place, tp=here.tp) for place in along)

    def groups(self, axis: Axis) -> tuple[tuple[int, ...], ...]:
        """All groups of an axis, in ascending order of their first ranks; each rank is in exactly one."""
        return tuple(sorted({self.group(axis, rank) for rank in range(self.world_size)}))


@lru_cache(maxsize=256)
def split_layers(n_layers: int, n_stages: int) -> tuple[range, ...]:
    """Split layers into pipeline stages of neighbours, as evenly as possible.

    Remaining layers are given one each to the stages in the middle, then to the first, then to the last, since the ends
    also have the embedding and the head. Raises MeshError where a stage would be empty.
    """
    if not 1 <= n_stages <= n_layers:
        raise MeshError(
            f"{n_layers} layers cannot be split into {n_stages} pipeline stages: each needs at least one"
        )
    sizes = [n_layers // n_stages] * n_stages
    middle_first = [*range(1, n_stages - 1), 0, n_stages - 1]
    for stage in middle_first[: n_layers % n_stages]:
        sizes[stage] += 1
    starts = [sum(sizes[:stage]) for stage in range(n_stages)]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def check(
    config: ModelConfig,
    mesh: Mesh,
    world_size: int | None = None,
    *,
    n_chunks: int = 1,
    splits_sequence: bool = False,
) -> None:
    """Raises MeshError with the first reason why `config` cannot be trained on `mesh`.

    `world_size` is the number of processes that there are, where known; `n_chunks` is the number of pipeline stages
    per rank in an interleaved schedule; `splits_sequence` says that tensor parallel ranks split the stream's positions.
    """
    if splits_sequence:
        check_sequence(mesh)
    for reason in refusals(config, mesh, world_size, n_chunks=n_chunks):
        raise MeshError(f"{config.name} cannot be trained on {mesh}: {reason}")


def check_sequence(mesh: Mesh) -> None:
    """Raises MeshError if there are no tensor parallel ranks to split the stream's positions over."""
    if mesh.tp == 1:
        raise MeshError(
            f"sequence parallelism splits rows over the ranks of tp, and {mesh} has one: use tp of at least 2, or leave it out"
        )


def check_schedule(mesh: Mesh, *, n_micro_batches: int, n_chunks: int) -> None:
    """Raises MeshError if micro-batches cannot be run through the mesh's pipeline of `n_chunks` stages per rank."""
    if n_chunks > 1 and mesh.pp == 1:
        raise MeshError(
            f"interleaved stages need a pipeline: use pp of at least 2, or chunks=1 instead of {n_chunks}"
        )
    if n_micro_batches < mesh.pp:
        raise MeshError(
            f"{n_micro_batches} micro-batches cannot fill {mesh.pp} pipeline stages: a pipeline needs at least as many "
            "micro-batches as it has stages"
        )
    if n_chunks > 1 and n_micro_batches % mesh.pp:
        raise MeshError(
            f"{n_micro_batches} micro-batches are not a multiple of pp ({mesh.pp}), which interleaved stages (chunks "
            "above 1) need"
        )


def check_zero(mesh: Mesh, stage: int, *, offload: bool = False) -> None:
    """Raises MeshError where DeepSpeed has no such stage of ZeRO, or cannot train the mesh with it."""
    if stage not in (0, 1, 2, 3):
        raise MeshError(f"ZeRO has stages 0 to 3, not {stage}")
    if offload and stage == 0:
        raise MeshError("offload needs ZeRO 1, 2 or 3: without sharding there is nothing to offload")
    if mesh.tp > 1 or mesh.pp > 1:
        raise MeshError(
            f"ZeRO by DeepSpeed works with dp and ep only, not with tp or pp as in {mesh}: leave it out with these, where "
            "ParallelTrainer shards the optimiser's states (ZeRO 1)"
        )
    if stage == 3 and mesh.ep > 1:
        raise MeshError("DeepSpeed refuses expert parallelism under ZeRO 3: use stage 2, or ep=1")


def refusals(
    config: ModelConfig, mesh: Mesh, world_size: int | None = None, *, n_chunks: int = 1
) -> Iterator[str]:
    """All reasons against a mesh, each with what to change; empty where it can be used."""
    if world_size is not None and world_size != mesh.world_size:
        yield f"it needs {mesh.world_size} ranks (dp * tp * pp) and there are {world_size}"
    if config.n_ahead:
        yield "multi-token prediction is trained in a single process only; set n_ahead=0"
    if mesh.tp > 1:
        yield from _tensor_refusals(config, mesh)
    if mesh.ep > 1:
        yield from _expert_refusals(config, mesh.ep)
    if mesh.pp * n_chunks > 1:
        yield from _pipeline_refusals(config, mesh.pp * n_chunks)


def _tensor_refusals(config: ModelConfig, mesh: Mesh) -> Iterator[str]:
    tp = mesh.tp
    widths = {"n_heads": config.n_heads, "vocab_size": config.vocab_size}
    if config.latent is None:
        widths["n_kv_heads"] = config.n_kv_heads
    if config.n_moe_layers < config.n_layers:
        widths["d_ff"] = config.d_ff
    if config.moe is not None and config.n_moe_layers:
        if not mesh.is_folded:
            widths["moe.d_expert"] = config.moe.d_expert
        if config.moe.n_shared:
            widths["the shared experts' width"] = config.moe.d_shared
    for name, width in widths.items():
        if width % tp:
            yield f"{name} ({width}) is not a multiple of tp ({tp})"
    if config.qk_norm == "all":
        yield "qk_norm 'all' normalises over all heads at once, which tensor parallel ranks do not have; use tp=1"
    if config.output_bias or config.ffn_bias:
        yield "output_bias and ffn_bias would be added once per tensor parallel rank; use tp=1"


def _expert_refusals(config: ModelConfig, ep: int) -> Iterator[str]:
    if config.moe is None or not config.n_moe_layers:
        yield "a dense model has no experts to spread; use ep=1"
    elif config.moe.n_experts % ep:
        yield f"n_experts ({config.moe.n_experts}) is not a multiple of ep ({ep})"


def _pipeline_refusals(config: ModelConfig, n_stages: int) -> Iterator[str]:
    if n_stages > config.n_layers:
        yield f"{config.n_layers} layers cannot be split into {n_stages} pipeline stages: each needs at least one"
        return
    stage_of = {
        layer: stage
        for stage, layers in enumerate(split_layers(config.n_layers, n_stages))
        for layer in layers
    }
    owners = (("attention_owners", config.attention_owner), ("ffn_owners", config.ffn_owner))
    for field, owner_of in owners:
        apart = next((layer for layer in stage_of if stage_of[layer] != stage_of[owner_of(layer)]), None)
        if apart is not None:
            yield f"{field} ties layers {owner_of(apart)} and {apart}, which are on different pipeline stages"
