"""Prefetching: equal batches, states of what was handed out, errors passed on, threads that end."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.arrow.token_documents import Ids, Span
from model.data.batches.batch import Batch
from model.data.batches.curriculum import Curriculum, LengthWarmup, Stage
from model.data.batches.prefetch import PrefetchedStream
from model.data.batches.stream import DataStream
from model.data.errors import DataError, StateError
from tests.model.data.memory_documents import MemoryDocuments

pytestmark = pytest.mark.slow

DOCUMENTS = MemoryDocuments(
    [range(100 * n, 100 * n + size) for n, size in enumerate([2, 9, 40, 17, 3, 25, 61])]
)
CURRICULUM = Curriculum((Stage("only", 1.0, {"a": 1.0}, 16),), 2_000, LengthWarmup(8, 700, steps=2))


class Watched:
    """Documents that can be slow, broken, or counted."""

    def __init__(self) -> None:
        self.lengths, self.fingerprint = DOCUMENTS.lengths, DOCUMENTS.fingerprint
        self.before: Callable[[int], None] = lambda document: None
        self.n_read = 0

    def tokens(self, document: int) -> Ids:
        self.before(document)
        self.n_read += 1
        return DOCUMENTS.tokens(document)

    def answers(self, document: int) -> tuple[Span, ...]:
        return ()


def plain(source: Any = DOCUMENTS) -> DataStream:
    return DataStream({"a": source}, CURRICULUM, batch_tokens=32, window_tokens=100)


def same(one: Batch, other: Batch) -> bool:
    names = ("tokens_BS", "positions_BS", "documents_BS", "targets_BS")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert not prefetch_threads()
    yield
    assert not prefetch_threads()


def test_prefetched_batches_are_the_stream_s() -> None:
    straight = plain()
    with PrefetchedStream(plain(), depth=3) as batches:
        for _ in range(60):
            assert same(next(batches), next(straight))
            assert batches.state() == straight.state()
            assert batches.tokens_seen == straight.tokens_seen


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 4))
def test_a_state_is_that_of_what_was_handed_out(stops: list[int], depth: int) -> None:
    straight, state = plain(), plain().state()
    for stop in stops:
        with PrefetchedStream(plain(), depth=depth) as batches:
            batches.resume(json.loads(json.dumps(state)))
            for _ in range(stop):
                assert same(next(batches), next(straight))
            state = batches.state()
    assert state == straight.state()


def test_batches_are_prepared_while_nobody_asks() -> None:
    source = Watched()
    with PrefetchedStream(plain(source), depth=2) as batches:
        next(batches)
        read = source.n_read
        deadline = time.monotonic() + 10
        while source.n_read == read and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.n_read > read
        time.sleep(0.2)  # and no more than `depth` beside the one that waits for room
        counted = Watched()
        ahead = plain(counted)
        for _ in range(1 + 2 + 1):
            next(ahead)
        assert source.n_read <= counted.n_read


def test_a_stream_that_cannot_say_where_it_is_is_an_error_and_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where memory runs out twice in a row."""
    stream, ended = plain(), []
    batches = PrefetchedStream(stream, depth=1)

    def fail() -> None:
        raise MemoryError("no room")

    def ask() -> None:
        with pytest.raises(MemoryError, match="no room"):
            next(batches)
        ended.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "state", fail)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(timeout=30)
        assert ended == [True]
    assert same(next(batches), next(plain()))
    batches.close()


def test_an_error_comes_where_its_batch_is_asked_for_and_asking_again_tries_again() -> None:
    source = Watched()

    def fail(document: int) -> None:
        if document == 2:
            raise DataError("document 2 is damaged")

    source.before = fail
    straight = plain()
    with PrefetchedStream(plain(source), depth=4) as batches:
        for _ in range(2):
            with pytest.raises(DataError, match="document 2"):
                while True:
                    assert same(next(batches), next(straight))
            straight.resume(batches.state())
            assert not prefetch_threads()
        source.before = lambda document: None
        for _ in range(20):
            assert same(next(batches), next(straight))


def test_closing_does_not_wait_for_room_and_may_be_repeated() -> None:
    batches = PrefetchedStream(plain(), depth=1)
    next(batches)
    started = time.monotonic()
    batches.close()
    batches.close()
    assert time.monotonic() - started < 5
    assert not prefetch_threads()


def test_a_closed_stream_goes_on_where_it_was() -> None:
    straight, batches = plain(), PrefetchedStream(plain())
    for _ in range(3):
        assert same(next(batches), next(straight))
    batches.close()
    for _ in range(3):
        assert same(next(batches), next(straight))
    batches.close()


def test_a_stream_that_is_forgotten_ends_its_thread() -> None:
    batches = PrefetchedStream(plain())
    next(batches)
    assert len(prefetch_threads()) == 1
    del batches
    gc.collect()
    assert not prefetch_threads()


def test_an_exception_in_the_loop_ends_the_thread() -> None:
    with pytest.raises(ZeroDivisionError), PrefetchedStream(plain()) as batches:
        next(batches)
        raise ZeroDivisionError
    assert not prefetch_threads()


def test_nothing_runs_before_the_first_batch() -> None:
    batches = PrefetchedStream(plain())
    assert not prefetch_threads()
    assert batches.state() == plain().state() and batches.tokens_seen == 0
    assert batches.epochs == {"a": 0.0}


def test_another_stream_s_state_is_refused_and_changes_nothing() -> None:
    other = DataStream({"a": DOCUMENTS}, CURRICULUM, batch_tokens=64, window_tokens=100)
    straight = plain()
    with PrefetchedStream(plain()) as batches:
        assert same(next(batches), next(straight))
        with pytest.raises(StateError, match="batch_tokens"):
            batches.resume(other.state())
        assert same(next(batches), next(straight))


def test_a_depth_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PrefetchedStream(plain(), depth=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="expected: this machine can pin memory")
def test_pinning_without_an_accelerator_is_an_error_and_not_ignored() -> None:
    with PrefetchedStream(plain(), pin=True) as batches, pytest.raises(RuntimeError):
        next(batches)
