"""A run that continues from the pairs of an interrupted one, with the real judge and real sandboxes."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.pair_record import fault_of
from benchmarks.evidence.signing import public_key
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.patch.trees import BlobStore
from tests.benchmarks.judging.judge_bench import EIGHTFOLD, KEY, Bench, Record

pytestmark = [pytest.mark.sandbox, pytest.mark.measures, pytest.mark.timeout(180)]


class Leaving(Record):
    """A platform that is away once it has this many records."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def on_pair(self, sealed: dict[str, Any]) -> None:
        super().on_pair(sealed)
        if len(self.pairs) == self._after:
            raise Cancelled("the platform is away")


class Recalled(Record):
    """A platform that recalls the device a moment after it has this many records, while the next pair is measured."""

    def __init__(self, cancellation: Cancellation, after: int) -> None:
        super().__init__()
        self._cancellation, self._after = cancellation, after

    def on_pair(self, sealed: dict[str, Any]) -> None:
        super().on_pair(sealed)
        if len(self.pairs) == self._after:
            recall = partial(self._cancellation.cancel_between_pairs, "the device was recalled")
            threading.Timer(0.05, recall).start()


@pytest.fixture
def bench(open_folder: Path) -> Bench:
    return Bench(BlobStore(open_folder / "blobs"), open_folder)


def test_an_interrupted_gate_is_continued_and_each_pair_was_posted_before_the_next(bench: Bench) -> None:
    slower = bench.wrapped(EIGHTFOLD, bench.textbook())
    leaving = Leaving(4)
    with pytest.raises(Cancelled):
        bench.judge(bench.textbook(), slower, callbacks=leaving)
    earlier = tuple(leaving.pairs)
    assert len(earlier) == 4 and not [
        fault for record in earlier if (fault := fault_of(record, public_key=public_key(KEY)))
    ]

    going_on = Record()
    document = bench.judge(bench.textbook(), slower, callbacks=going_on, continues=earlier)
    assert [record["digest"] for record in document["continues"]] == [record["digest"] for record in earlier]
    assert (document["verdict"]["kind"], document["verdict"]["pairs"]) == ("regression", 6)
    measured = [pair for pair in document["pairs"] if not pair["control"]]
    n_earlier = sum(not record["document"]["pair"]["control"] for record in earlier)
    assert len(measured) == 6 - n_earlier
    assert [record["document"]["pair"] for record in going_on.pairs] == document["pairs"]


@pytest.mark.long
def test_a_gate_that_is_stopped_between_two_pairs_has_posted_all_that_it_measured(bench: Bench) -> None:
    """The recall of a device on loan comes within a pair: that pair ends, and no other one begins."""
    cancellation = Cancellation()
    recalled = Recalled(cancellation, after=2)
    slower = bench.wrapped(EIGHTFOLD, bench.textbook())
    with pytest.raises(Cancelled, match="recalled"):
        bench.judge(bench.textbook(), slower, callbacks=recalled, cancellation=cancellation)
    assert len(recalled.pairs) == 3

    going_on = Record()
    earlier = tuple(recalled.pairs)
    document = bench.judge(bench.textbook(), slower, callbacks=going_on, continues=earlier)
    assert [record["digest"] for record in document["continues"]] == [record["digest"] for record in earlier]
    assert (document["verdict"]["kind"], document["verdict"]["pairs"]) == ("regression", 6)
