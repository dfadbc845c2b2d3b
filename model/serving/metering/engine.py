"""Engine: the engine's core on a worker thread, with a bounded queue before it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from model.serving.engine.blocks import BlockPool
from model.serving.engine.stats import EngineStats, StepReport
from model.serving.executors.base import Executor
from model.serving.executors.choice import executor_for
from model.serving.metering.core import EngineCore
from model.serving.metering.generation import (
    EngineLimits,
    EngineStoppedError,
    Event,
    Finish,
    Generation,
    Listener,
    NeverFitsError,
    QueueFullError,
)
from model.serving.metering.job import Job
from model.serving.metering.usage import DeviceMeter
from model.serving.node.served import ServedModel
from model.serving.speculation.choice import MakeProposer

__all__ = [
    "Engine",
    "EngineLimits",
    "EngineStoppedError",
    "Event",
    "Finish",
    "Generation",
    "Job",
    "Listener",
    "NeverFitsError",
    "QueueFullError",
]

log = logging.getLogger(__name__)


@dataclass
class Engine:
    """Start it, submit to it from any thread, stop it."""

    served: ServedModel
    limits: EngineLimits = field(default_factory=EngineLimits)
    on_death: Callable[[Exception], None] | None = None  # called when the thread ends by a bug
    executor: Executor | None = None  # None: the fastest one for the model
    on_step: Callable[[StepReport], None] | None = None  # called after each step, on the engine's thread
    make_proposer: MakeProposer | None = None  # makes each answer's draft proposer; None: no speculation
    clock_ns: Callable[[], int] = time.monotonic_ns

    def __post_init__(self) -> None:
        executor = executor_for(self.served, self.limits, self.executor)
        self._core = EngineCore(
            self.served, self.limits, executor, self.on_step, self.make_proposer, self.clock_ns
        )
        self._arrived: list[Job] = []
        self._leaving: list[Job] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Cancel all generations and end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Requests that have not started."""
        return len(self._arrived) + len(self._core.queued)

    @property
    def n_running(self) -> int:
        return len(self._core.scheduler.running)

    @property
    def n_preemptions(self) -> int:
        return self._core.scheduler.n_preemptions

    @property
    def device(self) -> DeviceMeter:
        return self._core.device

    @property
    def stats(self) -> EngineStats:
        return self._core.stats

    @property
    def pool(self) -> BlockPool:
        """The block pool, to read only: blocks held, idle and evicted."""
        return self._core.pool

    def submit(self, generation: Generation, listener: Listener) -> Job:
        """Queues a generation.

        Raises QueueFullError, EngineStoppedError, and ValueError where it cannot fit the context or (NeverFitsError)
        the cache, or its prompt or (SamplingError) its settings do not fit the vocabulary.
        """
        vocab_size = self.served.transformer.config.vocab_size
        generation.settings.check_vocabulary(vocab_size)
        if (
            min(generation.prompt) < 0 or max(generation.prompt) >= vocab_size
        ):  # one invalid id would fail the step for all sequences in it
            raise ValueError(f"the prompt's token ids must be between 0 and {vocab_size - 1}")
        length = len(generation.prompt) + generation.max_tokens
        if length > self.served.max_context:
            raise ValueError(f"prompt and max_tokens exceed the context of {self.served.max_context} tokens")
        self._core.scheduler.check_fits(length)
        job = Job(self.served, generation, listener, self.clock_ns())
        with self._changed:
            if self._is_stopping or not self._thread.is_alive():
                raise EngineStoppedError("the engine is shutting down")
            self._check_room(generation.owner)
            self._arrived.append(job)
            self._changed.notify()
        return job

    def _check_room(self, owner: str) -> None:
        if self.n_waiting >= self.limits.max_waiting:
            raise QueueFullError(f"{self.n_waiting} requests are already waiting: try again later")
        if not owner:
            return
        owners = [job.generation.owner for job in (*self._arrived, *self._core.queued)]
        if owners.count(owner) >= self.limits.max_waiting_per_owner:
            raise QueueFullError(
                f"{owners.count(owner)} requests of the same owner are already waiting: try again later"
            )

    def cancel(self, job: Job) -> None:
        """Ends a generation before the next step; harmless when it has already ended."""
        with self._changed:
            self._leaving.append(job)
            self._changed.notify()

    # -- on the engine's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # no caller may wait for a thread that has ended
            log.exception("the engine's thread failed")
            with self._changed:
                self._is_stopping = True
            for job in (*self._core.jobs, *self._arrived):
                self._core.abandon(job)
            if self.on_death is not None:
                self.on_death(error)

    def _loop(self) -> None:
        while not self._is_stopping:
            if (
                self._arrived or self._leaving or not self._core.has_work
            ):  # checked without the lock, which is seldom needed
                self._take_in()
            if not self._is_stopping:
                self._core.step()
        self._add_arrived()
        for job in self._core.jobs:
            self._core.end(job, Finish.CANCELLED)

    def _take_in(self) -> None:
        """Take jobs and cancellations from other threads; waits for them if there is nothing to compute."""
        with self._changed:
            while not (self._arrived or self._leaving or self._core.has_work or self._is_stopping):
                self._changed.wait()
            self._add_arrived()
            leaving, self._leaving = self._leaving, []
        for job in leaving:
            self._core.end(job, Finish.CANCELLED)

    def _add_arrived(self) -> None:
        while self._arrived:
            self._core.add(self._arrived.pop(0))
