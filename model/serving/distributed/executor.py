"""Executor over several processes of one machine: tensor and expert parallel.

This process is rank 0: its engine schedules, and each step is announced to the other ranks before all compute their
parts of it together. Ranks cannot undo a step, so a lost rank, or a step that fails on any of them, ends the
executor: every later step raises, and `on_loss` is called once, so that the node can end.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from model import native
from model.layers.unfilled import unfilled
from model.parallel.mesh.processes import MEETING_TIMEOUT_S, RankMissingError
from model.parallel.mesh.workers import Ended, Workers
from model.serving.distributed import worker as distributed_worker
from model.serving.distributed.messages import Channel, Command, encode_parts
from model.serving.distributed.rank import STEP_TIMEOUT_S, Rank, RankJob, build, join, leave
from model.serving.distributed.shard import Degrees, check_degrees
from model.serving.engine.cache import widest_window
from model.serving.executors.base import Part
from model.serving.executors.choice import BLOCK_TOKENS, blocks_within
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.generation import EngineLimits
from model.serving.node.served import ServedModel, load_served
from model.transformer import Transformer

STOP_GRACE_S = 5.0  # for ranks that were told to stop
OnLoss = Callable[[Exception], None]

log = logging.getLogger(__name__)
T = TypeVar("T")


class DistributedExecutor:
    """Executor of rank 0 over its own part and the other ranks'. `start` makes it."""

    def __init__(
        self,
        own: TorchExecutor,
        channel: Channel,
        workers: Workers,
        shape: _Shape,
        on_loss: OnLoss | None = None,
    ) -> None:
        self._own, self._channel, self._workers, self._shape = own, channel, workers, shape
        self._on_loss, self._lock = on_loss, threading.Lock()
        self.block_tokens, self.n_blocks = own.block_tokens, own.n_blocks
        self.bytes_per_block = own.bytes_per_block * shape.n_copies
        self.failure: RankMissingError | None = None
        self._is_closed = False
        workers.watch(self._lost)
        atexit.register(self._close_at_exit)

    @property
    def part(self) -> Transformer:
        """This rank's part of the model; routers are whole on every rank and see all tokens."""
        return self._own.transformer

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the other ranks."""
        return self._workers.process_ids

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """As `Executor.step`. Raises ValueError for invalid parts before any rank gets them, and RankMissingError
        once a rank was lost."""
        self._shape.check(parts, self)
        return self._together(Command.STEP, encode_parts(parts), lambda: self._own.step(parts))

    def copy_block(self, source: int, target: int) -> None:
        self._together(Command.COPY_BLOCK, (source, target), lambda: self._own.copy_block(source, target))

    def close(self) -> None:
        """End the other ranks; harmless if they are gone. Afterwards this process may start another job."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        atexit.unregister(self._close_at_exit)
        if self.failure is None:
            try:
                self._channel.send(Command.STOP)
            except RuntimeError:
                log.warning("the other ranks could not be told to stop: they are killed")
        self._workers.end(STOP_GRACE_S if self.failure is None else 0.0)
        leave()

    def _close_at_exit(self) -> None:
        # With a rank lost, a step may still wait for it, and leaving would wait for that step.
        if self.failure is None:
            self.close()

    def _together(self, command: Command, integers: Sequence[int], compute: Callable[[], T]) -> T:
        if self.failure is not None:
            raise self.failure
        if self._is_closed:
            raise RankMissingError("this job of several ranks was closed: start another one")
        try:
            self._channel.send(command, integers)
            return compute()
        except Exception as error:
            ended = self._workers.first_ended(wait_s=1.0)
            self._fail(_explained(ended, error))
            raise (self.failure or error) from error

    def _lost(self, ended: Ended) -> None:
        self._fail(_explained(ended, None))

    def _fail(self, failure: RankMissingError) -> None:
        with self._lock:
            if self.failure is not None or self._is_closed:
                return
            self.failure = failure
        log.error("%s", failure)
        self._workers.kill()  # a rank that waits for the lost one would wait for ever
        if self._on_loss is not None:
            self._on_loss(failure)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Limits that parts are checked against: on several ranks a wrong id would not raise an error."""

    vocab_size: int
    max_context: int
    n_copies: int  # ranks that hold different heads: their keys and values together are those of one process
    window: int | None  # that of `widest_window`

    def check(self, parts: Sequence[Part], executor: DistributedExecutor) -> None:
        for part in parts:
            end = part.past + len(part.tokens)
            if not part.tokens or part.past < 0 or end > self.max_context:
                raise ValueError(f"each part needs new tokens that end within {self.max_context}")
            if min(part.tokens) < 0 or max(part.tokens) >= self.vocab_size:
                raise ValueError(f"token ids must be in the vocabulary of {self.vocab_size}")
            if not 0 <= part.n_logits <= len(part.tokens):
                raise ValueError("a part has logits after its own new tokens only")
            if len(part.blocks) * executor.block_tokens < end:
                raise ValueError(f"{len(part.blocks)} blocks have no room for {end} tokens")
            _, seen = part.seen_blocks(self.window, executor.block_tokens)
            if min(seen) < 0 or max(seen) >= executor.n_blocks:
                raise ValueError(f"blocks must be numbers below {executor.n_blocks}")


def start(
    model: str,
    home: Path | None,
    degrees: Degrees,
    *,
    limits: EngineLimits | None = None,
    threads: int | None = None,
    on_loss: OnLoss | None = None,
    step_timeout_s: float = STEP_TIMEOUT_S,
) -> tuple[ServedModel, DistributedExecutor]:
    """Start the other ranks, load each one's part, and return when all are ready.

    `model` and `home` are those of `load_served`; `max_cache_bytes` of the limits counts the caches of ranks with
    different heads together. The served model's transformer has shapes and no weights: they are in the executor.
    One such job at a time in a process. Raises MeshError where the model cannot be split so, CheckpointError where it
    cannot be loaded, and RankMissingError where a rank does not start or this process has such a job already; no
    started process is left then.
    """
    if dist.is_initialized():
        raise RankMissingError("this process is a rank of another job: close that first")
    served = load_served(model, home)
    whole = served.transformer
    check_degrees(whole.config, degrees)
    native.available()  # once, before each rank would build them for itself
    folder = Path(tempfile.mkdtemp(prefix="gainshare-ranks-"))
    job = RankJob(
        model=model,
        home=None if home is None else str(home),
        tensor=degrees.tensor,
        expert=degrees.expert,
        n_blocks=blocks_within(whole.config, whole.dtype.itemsize, limits or EngineLimits()),
        block_tokens=BLOCK_TOKENS,
        meeting_file=str(folder / "meeting"),
        threads=threads,
        step_timeout_s=step_timeout_s,
    )
    workers = Workers(distributed_worker.__name__, job.to_json(), degrees.n_ranks - 1)
    try:
        workers.wait_for_line(MEETING_TIMEOUT_S)
        return _ready(join(job, 0), served, workers, on_loss)
    except BaseException as error:
        ended = workers.first_ended(wait_s=0.5)
        workers.end(0.0)
        leave()
        if ended is not None and isinstance(error, RuntimeError):
            raise RankMissingError(f"{ended} before it was ready: see its output above") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(
    rank: Rank, served: ServedModel, workers: Workers, on_loss: OnLoss | None
) -> tuple[ServedModel, DistributedExecutor]:
    own = build(rank, served)
    rank.channel.meet()
    config, dtype = served.transformer.config, served.transformer.dtype
    n_copies = 1 if config.latent is not None else rank.job.degrees.tensor
    shape = _Shape(config.vocab_size, config.max_context, n_copies, widest_window(config))
    with unfilled():
        described = Transformer(config).cast_blocks(dtype).requires_grad_(False).eval()
    return dataclasses.replace(served, transformer=described), DistributedExecutor(
        own, rank.channel, workers, shape, on_loss
    )


def _explained(ended: Ended | None, error: Exception | None) -> RankMissingError:
    if ended is not None:
        return RankMissingError(f"{ended}, and the others cannot continue without it: see its output above")
    return RankMissingError(f"a step of several ranks failed and cannot be repeated: {error}")
