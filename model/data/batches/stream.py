"""Endless stream of training batches that resumes exactly where it stopped.

The batches are a function of the sources, the curriculum, the seed and a short state, and of nothing else. Documents
are drawn into windows of about a million tokens; a window is packed and shuffled by a key; batches are cut off its
front. So a state is a window's start and the part of it that is delivered. All ranks plan the same global batch and
fill their part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

from model.config import ConfigError
from model.data.arrow.token_documents import TokenDocuments
from model.data.batches.assembly import Row, assemble
from model.data.batches.batch import Batch
from model.data.batches.batching import bucket
from model.data.batches.curriculum import Curriculum, Moment, Segment
from model.data.batches.drawing import Cursor, Drawer, Drawn, Piece
from model.data.batches.order import keyed_order
from model.data.batches.packing import pack
from model.data.errors import StateError

Layout = Literal["packed", "bucketed"]
State = dict[str, Any]  # plain JSON: numbers, strings, lists and dicts of them

FORMAT = "gainshare.stream/1"
WINDOW_TOKENS = 1 << 20
WIDTH_MULTIPLE = 8  # bucketed batches are a multiple of it wide, or as a sequence: kernels like whole vectors


class BatchStream(Protocol):
    """Interface of a stream of batches: `DataStream`, `PrefetchedStream`.

    A state is the same on all ranks, so that one of them may store it; it also fits another number of ranks.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch:
        """This rank's part of the next global batch; the stream is endless. Raises DataError for unusable data."""

    @property
    def tokens_seen(self) -> int:
        """Tokens of all ranks delivered so far, without padding: what `Curriculum.at` takes."""

    @property
    def epochs(self) -> dict[str, float]:
        """Approximate number of epochs of each source so far."""

    def state(self) -> State:
        """State of the stream after the last delivered batch."""

    def resume(self, state: State) -> None:
        """Restore a state: the following batches are bit-equal. Raises StateError for another stream's state."""

    def close(self) -> None:
        """End threads, if any; may be called again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class _Window:
    """A window of documents: its start and its delivered part."""

    number: int
    segment: int
    n_tokens: int  # drawn, or up to one piece more
    start: Drawn
    delivered: int = 0  # units


class DataStream:
    """Batches of `batch_tokens` positions over all ranks, from `sources` by name, as `curriculum` says.

    `packed`: documents share sequences of the curriculum's length, `batch_tokens // length` of them a batch.
    `bucketed`: a sequence is one piece of a document, batched with others of similar length, with padding after it; the
    batches of a window are shuffled. Sequences are dealt out to the ranks in turn; if they do not divide evenly, the
    last ranks' batches end with a sequence of padding. A curriculum's segment ends with the first batch that reaches its
    end; the rest of the window, two batches at most, is skipped.

    Raises ConfigError for sizes that do not fit and for a curriculum whose sources are not given, DataError for a
    source without usable documents.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenDocuments],
        curriculum: Curriculum,
        *,
        batch_tokens: int,
        seed: int = 0,
        rank: int = 0,
        n_ranks: int = 1,
        layout: Layout = "packed",
        window_tokens: int = WINDOW_TOKENS,
    ) -> None:
        _check(sources, curriculum, batch_tokens, rank, n_ranks, layout, window_tokens)
        self.curriculum = curriculum
        self._sources = {name: sources[name] for name in sorted(curriculum.sources)}
        self._batch_tokens, self._window_tokens = batch_tokens, window_tokens
        self._seed, self._layout = seed, layout
        self._rank, self._n_ranks = rank, n_ranks
        self._drawer = Drawer(self._sources, seed)
        self._identity = self._describe()
        self._tokens = 0
        self._batches = 0
        self._window: _Window | None = None
        self._units: list[list[Row]] = []  # the open window's: a sequence, or a batch of them where bucketed
        self._next_draw = self._drawer.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        before = self._window, self._units, self._next_draw
        try:
            rows = self._next_rows()
            batch = self._fill(rows)
        except BaseException:
            self._window, self._units, self._next_draw = before  # a batch that failed has not been delivered
            raise
        self._tokens += sum(piece.length for row in rows for piece in row)
        self._batches += 1
        return batch

    @property
    def moment(self) -> Moment:
        """Stage, sequence length and learning rate factor of the next batch."""
        return self.curriculum.at(self._tokens)

    @property
    def tokens_seen(self) -> int:
        return self._tokens

    @property
    def epochs(self) -> dict[str, float]:
        drawn = self._drawer.epochs(self._next_draw)
        if self._window is None or not self._units:
            return drawn
        start, part = self._drawer.epochs(self._window.start), self._window.delivered / len(self._units)
        return {name: start[name] + (drawn[name] - start[name]) * part for name in drawn}

    def state(self) -> State:
        window = None if self._window is None else asdict(self._window)
        return {
            "format": FORMAT,
            "stream": self._identity,
            "tokens": self._tokens,
            "batches": self._batches,
            "window": window,
        }

    def resume(self, state: State) -> None:
        self._check_identity(state)
        try:
            window = None if state["window"] is None else _window(state["window"])
            tokens, batches = int(state["tokens"]), int(state["batches"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a stream's state: {error!r}; take an older checkpoint") from error
        self._tokens, self._batches, self._window = tokens, batches, None
        self._next_draw = self._drawer.start()
        if window is not None:
            self._open(window)
            if not 0 <= window.delivered <= len(self._units):
                raise StateError("the state is beyond its window's end: take an older checkpoint")

    def close(self) -> None:
        """Do nothing: there is no thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_rows(self) -> list[Row]:
        """Rows of the next global batch."""
        moment = self.moment
        n_units = self._batch_tokens // moment.sequence_length if self._layout == "packed" else 1
        return list(chain.from_iterable(self._take(moment.segment) for _ in range(n_units)))

    def _fill(self, rows: list[Row]) -> Batch:
        """This rank's share of a global batch, with a row of padding if it has one row less."""
        mine = rows[self._rank :: self._n_ranks]
        mine += [[]] * (-(-len(rows) // self._n_ranks) - len(mine))
        width = self.moment.sequence_length
        if self._layout == "bucketed":
            longest = max(sum(piece.length for piece in row) for row in rows)
            width = min(width, -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE)
        return assemble(mine, self._sources, width, self.moment.stage.mask)

    def _take(self, segment: Segment) -> list[Row]:
        """The next unit of the open window, or of a new one if that is used up or of an earlier segment."""
        window = self._window
        if window is None or window.segment != segment.number or window.delivered == len(self._units):
            window = self._open(self._plan_window(segment))
        unit = self._units[window.delivered]
        self._window = replace(window, delivered=window.delivered + 1)
        return unit

    def _plan_window(self, segment: Segment) -> _Window:
        number, start = 0, self._next_draw
        if self._window is not None:
            number = self._window.number + 1
            if self.curriculum.segments[self._window.segment].stage != segment.stage:
                start = Drawn(start.cursors, dict.fromkeys(start.tokens, 0))
        n_tokens = self._window_tokens
        if segment.end is not None:
            n_tokens = min(n_tokens, max(0, segment.end - self._tokens) + self._batch_tokens)
        return _Window(number, segment.number, n_tokens, start)

    def _open(self, window: _Window) -> _Window:
        """Draw, arrange and shuffle a window; its content depends on `window` and the stream alone."""
        segment = self.curriculum.segments[window.segment]
        mixture = self.curriculum.stages[segment.stage].mixture
        pieces, self._next_draw = self._drawer.draw(
            window.start, mixture, window.n_tokens, segment.sequence_length
        )
        units = self._arrange(pieces, segment.sequence_length)
        order = keyed_order(len(units), ("window", self._seed, window.number))
        self._units = [units[index] for index in order]
        self._window = window
        return window

    def _arrange(self, pieces: list[Piece], sequence_length: int) -> list[list[Row]]:
        lengths = [piece.length for piece in pieces]
        if self._layout == "packed":
            return [[[pieces[index] for index in row]] for row in pack(lengths, sequence_length)]
        batches = bucket(lengths, self._batch_tokens, multiple=WIDTH_MULTIPLE)
        return [[[pieces[index]] for index in batch] for batch in batches]

    def _describe(self) -> dict[str, Any]:
        """Everything that decides the batches, which the ranks do not."""
        description = {
            "seed": self._seed,
            "layout": self._layout,
            "batch_tokens": self._batch_tokens,
            "window_tokens": self._window_tokens,
            "curriculum": self.curriculum.to_dict(),
            "sources": {name: source.fingerprint for name, source in self._sources.items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(description))
        return plain

    def _check_identity(self, state: State) -> None:
        if state.get("format") != FORMAT:
            raise StateError(f"the state has format {state.get('format')!r}; this version reads {FORMAT!r}")
        stored = state.get("stream", {})
        differing = [name for name, value in self._identity.items() if stored.get(name) != value]
        if differing:
            raise StateError(
                f"the state belongs to a stream with other {', '.join(differing)}: resume with the settings and data "
                "that it was stored with, or start again"
            )


def _window(values: Mapping[str, Any]) -> _Window:
    start = values["start"]
    cursors = {name: Cursor(**cursor) for name, cursor in start["cursors"].items()}
    rest = {name: int(value) for name, value in values.items() if name != "start"}
    return _Window(start=Drawn(cursors, dict(start["tokens"])), **rest)


def _check(
    sources: Mapping[str, TokenDocuments],
    curriculum: Curriculum,
    batch_tokens: int,
    rank: int,
    n_ranks: int,
    layout: str,
    window_tokens: int,
) -> None:
    missing = sorted(curriculum.sources - set(sources))
    if missing:
        raise ConfigError(
            f"the curriculum draws from {', '.join(missing)}: add these sources or drop their weights"
        )
    if layout not in get_args(Layout):
        raise ConfigError("DataStream.layout must be one of packed, bucketed")
    if not 0 <= rank < n_ranks:
        raise ConfigError(f"DataStream.rank must be at least 0 and below n_ranks, not {rank} of {n_ranks}")
    longest = max(segment.sequence_length for segment in curriculum.segments)
    if layout == "bucketed":
        longest = -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    if batch_tokens < longest:
        raise ConfigError(
            f"DataStream.batch_tokens must be at least {longest}: a batch holds a whole sequence"
        )
    if window_tokens < batch_tokens:
        raise ConfigError("DataStream.window_tokens must be at least batch_tokens")
