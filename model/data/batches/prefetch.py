"""Prepare batches in a thread while the model computes.

A thread suffices: filling a batch is copying in NumPy and reading mapped files, and torch's kernels hold no lock
meanwhile. The state is always that after the last batch handed out, without the batches that are prepared.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from model.data.batches.batch import Batch
from model.data.batches.stream import BatchStream, State

POLL_S = 0.1  # how often a waiting thread checks whether it should end


@dataclass(frozen=True)
class _Prepared:
    """A batch with its stream's state after it, or the error that was raised instead."""

    batch: Batch | None
    state: State
    tokens_seen: int
    epochs: dict[str, float]
    error: BaseException | None = None


class PrefetchedStream:
    """`stream` with up to `depth` batches prepared in advance, in page-locked memory with `pin`.

    Owns `stream`, which must not be used otherwise. The thread starts with the first batch and ends with `close`, with
    the object, or with an error, which is raised in place of its batch; the next call tries again.
    Raises ValueError for a depth below 1.
    """

    def __init__(self, stream: BatchStream, *, depth: int = 2, pin: bool = False) -> None:
        if depth < 1:
            raise ValueError("PrefetchedStream.depth must be at least 1")
        self._stream, self._depth, self._pin = stream, depth, pin
        self._last = _Prepared(None, stream.state(), stream.tokens_seen, stream.epochs)
        self._worker: _Worker | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._worker is None:
            self._worker = _Worker(self._stream, self._depth, self._pin)
            weakref.finalize(self, self._worker.stop)
        prepared = self._worker.next()
        if prepared.batch is None:
            self._end()
            assert prepared.error is not None
            raise prepared.error
        self._last = prepared
        return prepared.batch

    @property
    def tokens_seen(self) -> int:
        return self._last.tokens_seen

    @property
    def epochs(self) -> dict[str, float]:
        return self._last.epochs

    def state(self) -> State:
        return self._last.state

    def resume(self, state: State) -> None:
        self._end()
        self._stream.resume(state)
        self._last = _Prepared(None, self._stream.state(), self._stream.tokens_seen, self._stream.epochs)

    def close(self) -> None:
        self._end()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        """End the thread and reset the stream to the last batch handed out."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            self._stream.resume(self._last.state)


class _Worker:
    """The thread and its queue; holds no reference to the stream that owns it, so that that can be collected."""

    def __init__(self, stream: BatchStream, depth: int, pin: bool) -> None:
        self._stream, self._pin = stream, pin
        self._prepared: queue.Queue[_Prepared] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> _Prepared:
        return self._prepared.get()

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._prepared.get_nowait()  # wakes a thread that waits for space
        if self._thread is not threading.current_thread():  # a finaliser may run anywhere
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            prepared = self._prepare()
            while not self._stopping.is_set():
                try:
                    self._prepared.put(prepared, timeout=POLL_S)
                    break
                except queue.Full:
                    continue
            if prepared.batch is None:
                return

    def _prepare(self) -> _Prepared:
        stream = self._stream
        try:
            batch = next(stream)
            batch = batch.pin() if self._pin else batch
            return _Prepared(batch, stream.state(), stream.tokens_seen, stream.epochs)
        except (
            BaseException
        ) as raised:  # any error: the consumer would wait for ever for a thread that ended without one
            return _Prepared(None, {}, 0, {}, raised)
