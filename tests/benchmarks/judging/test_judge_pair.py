"""One pair of the judge and one of its sides: cores, freezing, inputs, weights and whose a failure is."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.evidence.samples import frozen_cpu_limit_ns
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.seats import SIDES
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import Side, SideFailed, SideSetup
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree
from benchmarks.sandbox import best_level
from benchmarks.suites import get_suite
from tests.benchmarks.judging.judge_bench import MOE, Bench
from tests.benchmarks.pairs.real_pairs import prepared_pair

pytestmark = [pytest.mark.sandbox, pytest.mark.measures, pytest.mark.timeout(180)]


@pytest.fixture
def bench(open_folder: Path) -> Bench:
    return Bench(BlobStore(open_folder / "blobs"), open_folder)


@contextmanager
def one_pair(
    bench: Bench, base: Tree, candidate: Tree, *, is_control: bool = False, secret: bytes | None = None
) -> Iterator[Pair]:
    suite, seeds = get_suite("moe_forward", "tiny"), Seeds(secret) if secret else None
    with prepared_pair(
        suite, base, candidate, store=bench.store, folder=bench.folder, is_control=is_control, seeds=seeds
    ) as pair:
        yield pair


def first_called(secret: bytes) -> str:
    """The side that the first pair of a run with this secret calls first: loading draws from the same order before."""
    order = Seeds(secret).order("pair", 0, "calls")
    order.sample(SIDES, 2)
    return order.sample(SIDES, 2)[0]


@pytest.mark.parametrize("called_first", SIDES)
def test_a_control_pair_s_failure_is_base_s_whichever_side_it_strikes(
    bench: Bench, called_first: str
) -> None:
    """Both sides run base's tree: a contributor whose patch never ran has not answered wrongly."""
    secrets = (bytes([number]) * 32 for number in range(256))
    secret = next(secret for secret in secrets if first_called(secret) == called_first)
    base = bench.wrapped("raise ValueError('base is broken')")
    with one_pair(bench, base, bench.shipped, is_control=True, secret=secret) as pair:
        with pytest.raises(SideFailed, match="base is broken") as caught:
            pair.measure()
    assert (caught.value.side, caught.value.kind, caught.value.stage) == ("base", "crash", "call")


def test_threads_that_burn_the_core_stand_still_while_frozen(bench: Bench) -> None:
    candidate = bench.wrapped(
        """
if not hasattr(self, "burner"):
    self.burner = _threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True)
    self.burner.start()
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, bench.shipped, candidate) as pair:
        pair.measure()
        record = pair.record.as_dict()
    assert record["cpu_while_frozen_ns"]["candidate"] <= frozen_cpu_limit_ns(record)


def test_every_thread_of_both_sides_is_held_on_the_measuring_core(bench: Bench) -> None:
    candidate = bench.wrapped(
        """
try:
    _os.sched_setaffinity(0, range(_os.cpu_count()))
except OSError:
    pass
_threading.Thread(target=_time.sleep, args=(60,), daemon=True).start()
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, candidate, candidate) as pair:
        pair.measure()
        held = [
            os.sched_getaffinity(int(task.name))
            for side in pair._sides.values()
            for pid in side.pids()
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    assert len(held) > 2 * 13  # the threads that each call started are among them
    assert all(cores == {choose_cores().measuring} for cores in held)


def test_work_of_a_side_that_is_not_frozen_would_be_seen(bench: Bench) -> None:
    """The same burner, thawed by hand: the account is not zero because no one counts."""
    suite = get_suite("moe_forward", "tiny")
    seeds = Seeds.fresh()[1]
    problem = suite.problem(suite.cases[0].draw(seeds.numbers("shape")), seeds.numbers("p"))
    burning = bench.patched(
        bench.shipped,
        MOE,
        bench.text(MOE)
        + "\nimport threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()\n",
    )
    with tree_folders((burning,), bench.store, bench.folder / "trees") as folders:
        side = Side(
            "candidate", folders[burning.hash], suite, SideSetup(suite, best_level(), choose_cores()), 1
        )
        try:
            side.await_ready()
            side.load(problem)
            time.sleep(0.2)
            assert side.take_cpu_while_frozen_ns() < 20_000_000
            side.thaw()
            time.sleep(0.3)
            assert side.take_cpu_while_frozen_ns() > 20_000_000
        finally:
            side.close()


def test_the_same_input_is_never_sent_twice_and_both_sides_get_the_same(bench: Bench) -> None:
    """A candidate that remembers what it was asked would answer a repeated input for free."""
    candidate = bench.wrapped(
        """
seen = self.__dict__.setdefault("seen", set())
key = x_TD.numpy().tobytes()
if key in seen:
    raise RuntimeError("asked twice")
seen.add(key)
return _honest(self, x_TD)
"""
    )
    with one_pair(bench, candidate, candidate) as pair:
        pair.measure()
    assert pair.record.outputs_checked == 13


def test_weights_and_shapes_differ_from_pair_to_pair(bench: Bench) -> None:
    suite = get_suite("moe_forward", "tiny")
    seeds = Seeds.fresh()[1]
    weights = [
        suite.problem(suite.cases[0].draw(seeds.numbers("s")), seeds.numbers("pair", n)).weights
        for n in range(2)
    ]
    assert (weights[0]["router.weight"] != weights[1]["router.weight"]).all()


def test_a_killed_pair_fails_instead_of_hanging(bench: Bench) -> None:
    with one_pair(bench, bench.shipped, bench.shipped) as pair:
        pair.kill()
        with pytest.raises(SideFailed):
            pair.measure()
