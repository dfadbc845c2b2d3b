"""One way to train: mesh, micro-batches, checkpointing, optimiser sharding. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh

Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Precision:
    """Bytes per parameter. Norms, embedding and head stay fp32, as in model/transformer.py.

    `block_bytes` are those of a block's weights and of its activations; `state_bytes` are the optimiser's per
    parameter of a block, master copy included; `gradient_bytes` those of accumulated gradients. `casts_gradients` says
    whether the optimiser reads fp32 copies of them.
    """

    name: str
    block_bytes: int
    gradient_bytes: int
    state_bytes: int
    casts_gradients: bool


PRECISIONS = {
    "fp32": Precision("fp32", block_bytes=4, gradient_bytes=4, state_bytes=8, casts_gradients=False),
    # bf16 weights and gradients, fp32 master copy and AdamW moments
    "bf16": Precision("bf16", block_bytes=2, gradient_bytes=2, state_bytes=12, casts_gradients=True),
    # of a run that chooses between the two when it starts: at least the memory of either
    "auto": Precision("auto", block_bytes=4, gradient_bytes=4, state_bytes=8, casts_gradients=True),
}
STREAM_BYTES = 4  # per element of the residual stream, the embedding, the head and its logits


@dataclass(frozen=True)
class Workload:
    """The training job: a model and `batch` sequences of `tokens` tokens per optimiser step."""

    config: ModelConfig
    tokens: int
    batch: int
    precision: Precision

    @property
    def tokens_per_step(self) -> int:
        return self.tokens * self.batch


@dataclass(frozen=True)
class Layout:
    """A layout: `rows` sequences per micro-batch and data parallel rank; `zero` is ZeRO's stage, 0 to 3.

    `n_chunks` pipeline stages per rank, interleaved where above one. `has_kernels` says that experts are computed by
    our kernels, which need more memory at once in the backward pass than torch's operations. `keeps_outputs` says
    that a pipeline stage keeps its output until the gradient comes, as with torch up to 2.14, and not only until it is
    sent. `splits_sequence` splits the residual stream's positions over tp.
    """

    mesh: Mesh
    rows: int
    checkpointing: Checkpointing
    zero: int = 1
    n_chunks: int = 1
    has_kernels: bool = True
    keeps_outputs: bool = True
    splits_sequence: bool = False

    def micro_batches(self, workload: Workload) -> int:
        """Number of micro-batches per step; the search makes only layouts that divide evenly."""
        return workload.batch // (self.mesh.dp * self.rows)

    @property
    def stream_share(self) -> float:
        """One rank's share of the residual stream's positions."""
        return 1 / self.mesh.tp if self.splits_sequence else 1.0

    @property
    def n_stages(self) -> int:
        return self.mesh.pp * self.n_chunks

    def stages(self, rank: int) -> tuple[int, ...]:
        """Pipeline stages of the rank at this place on the pipeline axis."""
        return tuple(chunk * self.mesh.pp + rank for chunk in range(self.n_chunks))
