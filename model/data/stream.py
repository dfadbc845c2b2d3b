"""Endless training batches that go on exactly where they stopped.

Knows nothing of models, optimisers or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from model.data.batch import Batch

State = dict[str, Any]  # plain JSON: numbers, strings, lists and dicts of them


class BatchStream(Protocol):
    """What a trainer sees of a stream; `DataStream` and `PrefetchedStream` are ones.

    A state is the same on all ranks, so that one of them may store it; it also fits another number of ranks.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch:
        """This rank's part of the next global batch; never ends."""

    @property
    def tokens_seen(self) -> int:
        """Tokens of all ranks delivered so far, without padding: what `Curriculum.at` takes."""

    def state(self) -> State:
        """Where the stream stands behind the last delivered batch."""

    def resume(self, state: State) -> None:
        """Goes to a stored state: the following batches are bit-equal. Raises StateError for another stream's state."""

    def close(self) -> None:
        """Ends threads, if any; repeatable."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
