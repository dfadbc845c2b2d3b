"""One rank of a training run: build its part of the trainer and follow rank 0's commands.

`python -m model.parallel.run.rank RANK JOB` is started by `engine.py`, never by hand. It ends with its parent, whose
pipe it has as standard input. Exit status: 0 when told to stop or when the parent has ended, 3 if it lost another rank,
1 if it failed itself, with a traceback on standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from model.data.batches.batch import IGNORED, PADDING, Batch
from model.layers.moe import metrics
from model.parallel.mesh.mesh import Mesh
from model.parallel.mesh.processes import (
    Processes,
    RankMissingError,
    all_ranks_on_host,
    connect,
    disconnect,
    meet,
    naming_lost_ranks,
)
from model.parallel.mesh.workers import LOST_ANOTHER, attach
from model.parallel.run.state import from_snapshot
from model.parallel.trainer import ParallelTrainer
from model.parallel.training_state import cut_training
from model.parallel.zero.axis import ZeroTrainer
from model.parallel.zero.engine import ZeroConfig
from model.training.config.run_config import ParallelConfig, RunConfig
from model.training.optim.ordered_sums import ordered_sums
from model.training.optim.precision import DTYPES, Precision
from model.training.report.layer_metrics import summary
from model.training.run.checkpoints import load
from model.training.run.errors import NotFiniteError
from model.training.run.setup import model_for
from model.transformer import Transformer

FOREVER = timedelta(
    days=365
)  # ranks wait for an order while rank 0 evaluates, saves or draws; they end with it
Order = Literal["update", "measured", "summed_loss", "training_state", "restore"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankJob:
    """Description of a job for joining it; everything else is sent afterwards."""

    meeting_file: str  # in a folder that only this user may enter
    n_ranks: int
    threads: int
    is_cuda: bool
    timeout_s: float  # how long one rank waits for another

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RankJob:
        return cls(**json.loads(text))


class Orders:
    """Ordered channel of objects from rank 0 to all other ranks, on the host.

    Rank 0 waits at most `timeout_s` for any other rank; those wait for rank 0 as long as it runs.
    """

    def __init__(self, timeout_s: float) -> None:
        timeout = timedelta(seconds=timeout_s) if dist.get_rank() == 0 else FOREVER
        self.group = all_ranks_on_host(timeout)

    def send(self, message: object) -> None:
        """Send from rank 0. Raises the backend's error where a receiver is lost or does not receive for `timeout_s`."""
        dist.broadcast_object_list([message], src=0, group=self.group)

    def receive(self) -> Any:
        """Wait for the next object. Raises the backend's error where rank 0 has ended."""
        message: list[Any] = [None]
        dist.broadcast_object_list(message, src=0, group=self.group)
        return message[0]


def join(job: RankJob, rank: int) -> tuple[torch.device, Orders]:
    """Join the others; every rank must call it. Raises RankMissingError where some do not join."""
    torch.set_num_threads(job.threads)
    device = meet(job.meeting_file, rank, job.n_ranks, is_cuda=job.is_cuda, timeout_s=job.timeout_s)
    return device, Orders(job.timeout_s)


class RunRank:
    """This rank's part of a run. All ranks must make one and call the same methods with the same arguments."""

    def __init__(
        self,
        config: RunConfig,
        parallel: ParallelConfig,
        vocabulary: int,
        precision: Precision,
        device: torch.device,
        orders: Orders,
    ) -> None:
        self._orders, self._device, self._n_chunks = orders, device, parallel.chunks
        self._n_micro_batches = config.compute.micro_batches
        self.mesh = parallel.mesh
        self.processes = connect(self.mesh, timeout_s=parallel.timeout_s)
        model = model_for(config, vocabulary)
        self.trainer = _trainer(config, parallel, precision, model, self.processes, device)
        for stage in self.trainer.stages:
            metrics.watch(stage)

    def update(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """Update on the whole batch, of which this rank takes its rows; returns loss and gradient norm."""
        rows = own_rows(batch, self.mesh, self.processes.at.dp, self._n_micro_batches)
        with ordered_sums(self._device):
            return self.trainer.update(rows.to(self._device), learning_rate, is_packed=batch.is_packed)

    def measured(self) -> dict[str, float]:
        """Metrics of the MoE layers on this rank's stages, over the rows of all data parallel ranks."""
        group = self.processes.group("dp")
        layers = {}
        for stage in self.trainer.stages:
            layers.update(metrics.collect(stage, group=group))
        return summary(layers)

    def summed_loss(self, batch: Batch) -> float:
        """Sum of the loss over all scored positions of the batch, without an update."""
        rows = own_rows(batch, self.mesh, self.processes.at.dp, 1)
        return self.trainer.summed_loss(rows.to(self._device), is_packed=batch.is_packed)

    def training_state(self) -> dict[int, dict[str, Any]]:
        """Gather the training states on rank 0, by rank, without ranks that only have copies; other ranks get none."""
        own: dict[str, Any] | None = _on_host(self.trainer.training_state())
        if self.processes.at.edp:
            own = None  # a copy of what another rank has
        gathered: list[Any] | None = [None] * self.mesh.world_size if self.processes.rank == 0 else None
        dist.gather_object(own, gathered, dst=0, group=self._orders.group)
        return {rank: state for rank, state in enumerate(gathered or []) if state is not None}

    def restore(self, folder: Path) -> None:
        """Restore a checkpoint of this model. Raises SavedStateError, MeshError and DamagedCheckpointError."""
        snapshot, config = load(folder)
        whole = from_snapshot(snapshot)
        rank = self.processes.rank
        self.trainer.load_training_state(
            cut_training(config, whole, self.mesh, rank, n_chunks=self._n_chunks)
        )


def _trainer(
    config: RunConfig,
    parallel: ParallelConfig,
    precision: Precision,
    model: Transformer,
    processes: Processes,
    device: torch.device,
) -> ParallelTrainer | ZeroTrainer:
    """Make the trainer: DeepSpeed's if the file has `zero`, else ours."""
    dtype, compute = DTYPES[precision], config.compute
    if parallel.zero is not None:
        is_bf16 = dtype is torch.bfloat16
        return ZeroTrainer(
            model.config,
            model.state_dict(),
            processes,
            config.recipe,
            zero=ZeroConfig(parallel.zero, offload=parallel.offload, is_bf16=is_bf16),
            n_micro_batches=compute.micro_batches,
            device=device,
            checkpointing=compute.checkpointing,
        )
    return ParallelTrainer(
        model.config,
        model.state_dict(),
        processes,
        config.recipe,
        n_micro_batches=compute.micro_batches,
        n_chunks=parallel.chunks,
        device=device,
        block_dtype=dtype,
        checkpointing=compute.checkpointing,
        shards_states=parallel.shard_states,
        splits_sequence=parallel.sequence,
    )


def own_rows(batch: Batch, mesh: Mesh, place: int, n_micro_batches: int) -> Batch:
    """The rows of one data parallel rank: the same number on each, a multiple of the micro-batches.

    A batch with too few rows is filled up with rows of padding, which are computed and not scored.
    """
    n_rows, n_parts = len(batch.tokens_BS), mesh.dp * n_micro_batches
    whole = _with_padding(batch, -n_rows % n_parts)
    per_rank = len(whole.tokens_BS) // mesh.dp
    return whole.rows(place * per_rank, (place + 1) * per_rank)


def _with_padding(batch: Batch, n_rows: int) -> Batch:
    if not n_rows:
        return batch
    length, device = batch.tokens_BS.shape[1], batch.tokens_BS.device

    def filled(tensor: torch.Tensor, value: int) -> torch.Tensor:
        return torch.cat([tensor, torch.full((n_rows, length), value, dtype=torch.int64, device=device)])

    return Batch(
        tokens_BS=filled(batch.tokens_BS, 0),
        positions_BS=torch.cat([batch.positions_BS, torch.arange(length, device=device).expand(n_rows, -1)]),
        documents_BS=filled(batch.documents_BS, PADDING),
        targets_BS=filled(batch.targets_BS, IGNORED),
    )


def _on_host(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_host(value) for name, value in state.items()}
    return state.detach().cpu() if isinstance(state, torch.Tensor) else state


def main(arguments: list[str]) -> int:
    rank, job = int(arguments[0]), RankJob.from_json(arguments[1])
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s rank {rank} %(name)s %(levelname)s %(message)s"
    )
    attach()
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # sent to all ranks of the process group; rank 0 saves, then tells us to stop
    try:
        with naming_lost_ranks():
            device, orders = join(job, rank)
            config, parallel, vocabulary, precision = orders.receive()
            _serve(RunRank(config, parallel, vocabulary, precision, device, orders), orders)
    except Exception as error:
        log.exception("this rank ends")
        sys.stderr.flush()
        # an orderly leave would wait for a rank that may be lost
        os._exit(LOST_ANOTHER if isinstance(error, RankMissingError) else 1)
    disconnect()
    return 0


def _serve(own: RunRank, orders: Orders) -> None:
    """Execute rank 0's orders until told to stop. Raises what an order raises: a rank cannot undo a step."""
    while (order := orders.receive()) is not None:
        name, arguments = order
        try:
            getattr(own, name)(**arguments)
        except NotFiniteError:
            log.debug("the update was skipped")  # by all ranks; rank 0 reports it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
