"""A run that continues from the pairs of an interrupted one, with the real judge and real sandboxes."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.pair_record import fault_of
from benchmarks.evidence.signing import public_key
from benchmarks.judging.cancellation import Cancelled
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
