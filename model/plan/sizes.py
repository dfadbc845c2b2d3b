"""Exact number of parameters on each rank of a mesh. Does not import torch.

`measure.py` compares these counts with the real shards, made on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh, split_layers
from model.parallel.mesh.share import local_config


@dataclass(frozen=True)
class Parameters:
    """Parameters of one rank: `block` (replicated over dp), `expert` (over edp), `outside` (embedding, head, last norm)."""

    block: int = 0
    expert: int = 0
    outside: int = 0

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(self.block + other.block, self.expert + other.expert, self.outside + other.outside)

    @property
    def total(self) -> int:
        return self.block + self.expert + self.outside


def stage_parameters(config: ModelConfig, mesh: Mesh, stage: int, n_stages: int) -> Parameters:
    """Parameters of one rank's share of a pipeline stage; weights that layers share count once."""
    local = local_config(config, mesh.tp, mesh.etp)
    layers = split_layers(config.n_layers, n_stages)[stage]
    block = len({local.attention_owner(layer) for layer in layers}) * local.attention_parameters
    block += 2 * len(layers) * local.d_model  # norms
    expert = 0
    for layer in {local.ffn_owner(layer) for layer in layers}:
        if local.moe is not None and local.is_moe_layer(layer):
            experts = local.moe.n_experts * 3 * local.d_model * local.moe.d_expert
            block += local.moe.total_parameters - experts
            expert += experts // mesh.ep
        else:
            block += 3 * local.d_model * local.d_ff
            block += 2 * local.d_ff + local.d_model if local.ffn_bias else 0
    return Parameters(block, expert, _outside(local, stage, n_stages))


def _outside(local: ModelConfig, stage: int, n_stages: int) -> int:
    vocabulary = local.vocab_size * local.d_model
    is_first, is_last = stage == 0, stage == n_stages - 1
    tables = int(is_first) + int(is_last) * int(not local.tie_embeddings)
    if local.tie_embeddings and is_last and not is_first:
        tables += 1  # the embedding's copy that is used as head
    return tables * vocabulary + (local.d_model if is_last else 0)


def partial_parameters(config: ModelConfig, mesh: Mesh, pp: int, n_chunks: int = 1) -> Parameters:
    """Parameters of a rank that each rank of tp has whole, such as norms and routers; `mesh.tp` is above one.

    tp ranks together hold them tp - 1 times more than the unsplit model.
    """
    unsplit = replace(mesh, tp=1, etp=None, dp=mesh.dp * mesh.tp)
    held, whole = (rank_parameters(config, of, pp, n_chunks) for of in (mesh, unsplit))
    surplus = mesh.tp - 1
    return Parameters(
        block=(held.block * mesh.tp - whole.block) // surplus,
        outside=(held.outside * mesh.tp - whole.outside) // surplus,
    )


def rank_parameters(config: ModelConfig, mesh: Mesh, pp: int, n_chunks: int = 1) -> Parameters:
    """Parameters of a rank at place `pp` of the pipeline axis, over all its stages."""
    stages = range(pp, mesh.pp * n_chunks, mesh.pp)
    return sum(
        (stage_parameters(config, mesh, stage, mesh.pp * n_chunks) for stage in stages), start=Parameters()
    )
