"""Training engine on several processes of this machine, with the interface of a single one (training/run/engine.py).

This process is rank 0: it starts the others, draws batches, and announces each order before all ranks execute it
together. Ranks cannot undo a step, so a lost one ends the run, which can be resumed from its newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch

from model import native
from model.checkpoint import save_checkpoint
from model.config import ConfigError
from model.data.batches.batch import Batch
from model.parallel.mesh.mesh import check
from model.parallel.mesh.processes import (
    MEETING_TIMEOUT_S,
    RankMissingError,
    disconnect,
    has_device_each,
    naming_lost_ranks,
)
from model.parallel.mesh.workers import Workers
from model.parallel.run import rank as run_rank
from model.parallel.run.rank import Order, Orders, RankJob, RunRank, join
from model.parallel.run.state import from_snapshot, to_snapshot
from model.parallel.training_state import merge_training
from model.training.config.run_config import ParallelConfig, RunConfig
from model.training.optim.precision import Precision
from model.training.run.checkpoints import Loaded
from model.training.run.evaluation import Score
from model.training.run.finite_weights import require_finite_weights
from model.training.run.setup import device_of, precision_for, shape_for
from model.training.run.state import MODEL, Progress, Snapshot
from model.training.run.trainer import Update

STOP_GRACE_S = 10.0
END_GRACE_S = 2.0  # ranks that lost another one end at about the same time; those that remain may hang

log = logging.getLogger(__name__)


class ManyProcesses:
    """Engine over the ranks of a mesh, which it starts and ends."""

    has_average = False

    def __init__(
        self,
        config: RunConfig,
        parallel: ParallelConfig,
        vocabulary: int,
        *,
        saved: Precision | None = None,
    ) -> None:
        """Raises ConfigError and MeshError before any process starts, CheckpointError and RankMissingError afterwards.

        Rank 0 alone chooses the precision, before it starts the others, and sends it to them.
        """
        self.config, self.mesh = shape_for(config, vocabulary), parallel.mesh
        check(self.config, self.mesh, n_chunks=parallel.chunks, splits_sequence=parallel.sequence)
        is_cuda = _is_on_cuda(config, self.mesh.world_size)
        self.notices: Sequence[str] = _notices(config, self.mesh.world_size, is_cuda=is_cuda)
        if not is_cuda:
            native.available()  # once, before each rank would build them for itself
        self.choice = precision_for(config, torch.device("cuda" if is_cuda else "cpu"), saved=saved)
        precision = self.choice.precision
        self.n_processes, self._timeout_s = self.mesh.world_size, parallel.timeout_s
        self._recipe = config.recipe
        self._steps = 0
        threads = config.compute.threads or max(1, len(os.sched_getaffinity(0)) // self.n_processes)
        self._folder = Path(tempfile.mkdtemp(prefix="gainshare-ranks-"))  # NCCL uses it again later
        meeting_file = str(self._folder / "meeting")
        job = RankJob(meeting_file, self.n_processes, threads, is_cuda, self._timeout_s)
        self._workers = Workers(run_rank.__name__, job.to_json(), self.n_processes - 1)
        try:
            self._workers.wait_for_line(MEETING_TIMEOUT_S)
            with self._naming_the_lost():
                self._device, self._orders = join(job, 0)
                self._orders.send((config, parallel, vocabulary, precision))
                self._own = RunRank(config, parallel, vocabulary, precision, self._device, self._orders)
        except BaseException:
            self._kill()
            raise

    @property
    def device(self) -> torch.device:
        return self._device

    def update(self, batch: Batch, *, progress: float, learning_rate_scale: float) -> Update:
        n_targets = batch.n_targets
        if n_targets == 0:
            raise ValueError("no position of this batch is scored, so it has no loss")
        learning_rate = self._recipe.learning_rate_at(self._steps, progress) * learning_rate_scale
        loss, norm = self._together("update", batch=batch.to("cpu"), learning_rate=learning_rate)
        self._steps += 1
        return Update(
            loss=loss,
            ahead_loss=None,
            gradient_norm=norm,
            learning_rate=learning_rate,
            n_tokens=batch.n_tokens,
            n_targets=n_targets,
            is_skipped=False,
        )

    def measured(self) -> dict[str, float]:
        """Metrics of the layers on rank 0's pipeline stages."""
        figures: dict[str, float] = self._together("measured")
        return figures

    def held_out_loss(self, batches: Sequence[Batch], *, of_average: bool) -> Score:
        assert not of_average
        targets = sum(batch.n_targets for batch in batches)
        if targets == 0:
            raise ValueError("the held-out batches score no position: use other evaluation data")
        total: float = sum(self._together("summed_loss", batch=batch) for batch in batches)
        return Score(total / targets, targets)

    def capture(self, progress: Progress, stream: dict[str, Any], *, run: dict[str, Any]) -> Snapshot:
        return to_snapshot(self._whole(), progress, stream, run=run)

    def restore(self, loaded: Loaded) -> Progress:
        from_snapshot(loaded.snapshot)  # before the other ranks see it
        self._together("restore", folder=loaded.folder)
        self._steps = loaded.snapshot.progress.step
        return loaded.snapshot.progress

    def export(self, folder: Path, *, metadata: Mapping[str, Any], files: Mapping[str, str]) -> None:
        weights = to_snapshot(self._whole(), Progress(), {}, run={}).tensors[MODEL]
        require_finite_weights(self._steps, weights)
        save_checkpoint(folder, self.config, weights, metadata={**metadata, "is_average": False}, files=files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tell the ranks to stop; after an error one of them may hang, so all are killed."""
        if error is not None:
            self._kill()
            return
        stop(self._orders, self._workers, STOP_GRACE_S)
        self._kill()
        disconnect()

    def _kill(self) -> None:
        self._workers.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _whole(self) -> dict[str, Any]:
        return merge_training(self.config, self.mesh, self._together("training_state"))

    def _together(self, order: Order, **arguments: Any) -> Any:
        """Execute an order on all ranks; returns this rank's result. Raises RankMissingError where one is lost or hangs."""
        with self._naming_the_lost():
            self._orders.send((order, arguments))
            return getattr(self._own, order)(**arguments)

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        """Context that turns the error of a lost rank into a RankMissingError that names the lost or hanging one."""
        try:
            with naming_lost_ranks():
                yield
        except RuntimeError as error:
            ended = self._workers.first_ended(END_GRACE_S, by_itself=True)
            if ended is not None:
                raise RankMissingError(
                    f"{ended}, and the others cannot continue without it: see its output above"
                ) from error
            if isinstance(error, RankMissingError):
                raise RankMissingError(hanging(self._workers.running(), self._timeout_s)) from error
            raise


def hanging(ranks: Sequence[int], timeout_s: float) -> str:
    """Error text for ranks that do not respond, of which at least one hangs; the others may wait for it."""
    late = f"an answer takes more than the {timeout_s:g} s of [parallel] timeout_s"
    if not ranks:
        return f"the other ranks lost one another, since {late}: see their output above"
    if len(ranks) == 1:
        return f"rank {ranks[0]} hangs, or {late}"
    return f"one of the ranks {', '.join(map(str, ranks))} hangs, or {late}"


def stop(orders: Orders, workers: Workers, grace_s: float) -> None:
    """Tell the ranks to stop and kill those that run after `grace_s`; all work is done by then."""

    def tell() -> None:
        with suppress(RuntimeError):  # a rank is lost or hangs: it is ended below
            orders.send(None)

    telling = threading.Thread(target=tell, name="stop", daemon=True)  # a hanging rank receives no order
    telling.start()
    if late := workers.end(grace_s):
        log.warning("ranks %s did not stop within %.0f s: they were killed", late, grace_s)
    telling.join(grace_s)


def _is_on_cuda(config: RunConfig, n_ranks: int) -> bool:
    """Whether ranks use CUDA. Raises ConfigError where it is configured and not every rank can have a device."""
    if device_of(config).type == "cpu" or has_device_each(n_ranks):
        return device_of(config).type == "cuda"
    if config.compute.device == "cuda":
        raise ConfigError(f"{_too_few_devices(n_ranks)}: use fewer processes or device 'cpu'")
    return False


def _notices(config: RunConfig, n_ranks: int, *, is_cuda: bool) -> list[str]:
    """A notice if the CPU computes although this machine has CUDA and the file does not choose the CPU."""
    if is_cuda or device_of(config).type == "cpu":
        return []
    return [f"{_too_few_devices(n_ranks)}: all compute on the CPU; use fewer processes for CUDA"]


def _too_few_devices(n_ranks: int) -> str:
    return f"[parallel] needs {n_ranks} CUDA devices, and torch sees {torch.cuda.device_count()}"
