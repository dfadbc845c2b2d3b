"""Seeds, the order of pairs, phases, quiet, cores: what surrounds a pair."""

import importlib.metadata
import os
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Never

import numpy as np
import pytest

from benchmarks.pairs.cores import (
    CacheScrubber,
    Cores,
    _pass_ns,
    choose_cores,
    judge_on,
    l2_bytes,
    pin,
    scrubbed_bytes,
    shared_bytes,
)
from benchmarks.pairs.phases import PHASES, Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.roofline import floor_ns, peak_flops
from benchmarks.pairs.schedule import BLOCK, PairPlan, Schedule
from benchmarks.pairs.seeds import Seeds
from benchmarks.runner.fingerprint import cpu_name, environment
from benchmarks.suites import Suite, get_suite

TINY = get_suite("moe_forward", "tiny")
STANDARD = get_suite("moe_forward", "standard")


def record_digest(package: str) -> str:
    """SHA-256 of the list of files that the package's installer wrote."""
    files = importlib.metadata.files(package) or []
    record = next(file for file in files if file.name == "RECORD" and "dist-info" in str(file))
    return sha256(record.read_binary()).hexdigest()


def plans(
    suite: Suite, blocks: int, secret: bytes = bytes(32), *, controls: int = 1, old: int = 0, direct: int = 0
) -> list[PairPlan]:
    """The pairs of so many full blocks."""
    schedule = Schedule(suite, Seeds(secret))
    many = {case.name: 1_000 for case in suite.cases}
    return [
        plan
        for _ in range(blocks)
        for plan in schedule.block(many, controls=controls, old=old, direct=direct)
    ]


def test_generators_of_different_purposes_are_unrelated_and_repeatable() -> None:
    seeds = Seeds(bytes(32))
    first = seeds.numbers("pair", 1, "inputs", 0).standard_normal(8)
    np.testing.assert_array_equal(first, Seeds(bytes(32)).numbers("pair", 1, "inputs", 0).standard_normal(8))
    for other in (("pair", 1, "inputs", 1), ("pair", 11, "inputs", 0), ("pair", "1", "inputs", 0)):
        assert not np.array_equal(first, seeds.numbers(*other).standard_normal(8))
    assert seeds.order("a").random() != seeds.order("b").random()


def test_fresh_secrets_differ_and_short_ones_are_refused() -> None:
    assert Seeds.fresh()[0] != Seeds.fresh()[0]
    with pytest.raises(ValueError, match="32"):
        Seeds(b"short")


def test_each_block_has_six_pairs_and_one_control_at_a_secret_place() -> None:
    taken = plans(TINY, 40)
    places = []
    for block in range(40):
        controls = [plan.is_control for plan in taken[block * (BLOCK + 1) : (block + 1) * (BLOCK + 1)]]
        assert sum(controls) == 1
        places.append(controls.index(True))
    assert len(set(places)) == BLOCK + 1  # every place occurs, none is fixed
    assert [plan.index for plan in taken] == list(range(len(taken)))


@pytest.mark.parametrize("controls", [1, 3, 6])
def test_a_control_pair_is_next_to_a_measured_pair_of_its_shape(controls: int) -> None:
    taken = {plan.index: plan for plan in plans(STANDARD, 30, controls=controls, old=2)}
    beside = [plan.next_to for plan in taken.values() if plan.next_to is not None]
    assert len(beside) == len(set(beside)) == 30 * controls
    steps = set()
    for plan in taken.values():
        assert plan.is_control == (plan.next_to is not None)
        if plan.next_to is not None:
            twin = taken[plan.next_to]
            assert (twin.case, twin.shape, twin.tree) == (plan.case, plan.shape, "candidate")
            steps.add(twin.index - plan.index)
    assert steps == {-1, 1}  # before or after, at random


def test_control_pairs_without_measured_ones_go_beside_the_latest() -> None:
    schedule = Schedule(TINY, Seeds(bytes(32)))
    name = TINY.cases[0].name
    first = schedule.block({name: 6}, controls=4)
    bare = [plan.index for plan in first if plan.tree == "candidate"]
    bare = sorted(set(bare) - {plan.next_to for plan in first})
    late = schedule.block({name: 0}, controls=5)
    assert [plan.next_to for plan in late] == bare[::-1]  # two were left
    assert [plan.index for plan in late] == [10, 11]
    assert schedule.block({name: -2}, controls=1) == []


def test_old_pairs_are_spread_and_all_cases_have_them() -> None:
    taken = plans(STANDARD, 20, old=3)
    old = [plan for plan in taken if plan.tree == "old"]
    assert len(old) == 60 and {plan.case for plan in old} == {case.name for case in STANDARD.cases}
    places = {(plan.index % (BLOCK + 4)) for plan in old}
    assert len(places) > BLOCK


def test_direct_pairs_are_at_random_places_with_shapes_of_their_own() -> None:
    taken = plans(STANDARD, 40, old=1, direct=2)
    assert Counter(plan.tree for plan in taken) == {"candidate": 240, "base": 40, "old": 40, "direct": 80}
    direct = [plan for plan in taken if plan.tree == "direct"]
    assert {plan.case for plan in direct} == {case.name for case in STANDARD.cases}
    assert not any(plan.is_control or plan.next_to is not None for plan in direct)
    places = Counter(plan.index % (BLOCK + 4) for plan in direct)
    assert len(places) == BLOCK + 4 and max(places.values()) < 20  # of 80: every place occurs, none is usual
    assert len({(plan.case, *plan.shape.items()) for plan in direct}) > 10


def test_direct_pairs_take_no_place_and_no_shape_of_a_measured_pair() -> None:
    without = [(plan.case, plan.shape) for plan in plans(TINY, 20) if plan.tree == "candidate"]
    with_them = plans(TINY, 20, old=1, direct=3)
    assert [(plan.case, plan.shape) for plan in with_them if plan.tree == "candidate"] == without


def test_direct_pairs_come_alone_once_all_others_are_there() -> None:
    block = Schedule(TINY, Seeds(bytes(32))).block({TINY.cases[0].name: 0}, direct=10)
    assert [plan.tree for plan in block] == ["direct"] * 10


def test_a_block_measures_only_what_is_short() -> None:
    first, second = (case.name for case in STANDARD.cases)
    block = Schedule(STANDARD, Seeds(bytes(32))).block({first: 0, second: 4})
    assert [plan.case for plan in block] == [second] * 4


def test_cases_come_by_turns() -> None:
    measured = [plan.case for plan in plans(STANDARD, 10) if not plan.is_control]
    for number in range(0, len(measured), 2):
        assert sorted(measured[number : number + 2]) == sorted(case.name for case in STANDARD.cases)
    assert len(Counter(measured)) == 2


def test_another_secret_gives_another_schedule() -> None:
    assert plans(TINY, 10) != plans(TINY, 10, bytes(31) + b"\1")
    assert plans(TINY, 10) == plans(TINY, 10)


def test_phases_add_up_and_survive_exceptions() -> Never:
    phases = Phases()
    with phases.spend("setup"):
        time.sleep(0.01)
    with pytest.raises(RuntimeError), phases.spend("setup"):
        time.sleep(0.01)
        raise RuntimeError
    assert phases.as_dict()["setup"] >= 20_000_000
    assert set(phases.as_dict()) == set(PHASES)


def test_others_wait_for_a_gap_between_calls_but_not_forever() -> None:
    quiet, entered, leave = Quiet(), threading.Event(), threading.Event()

    def company() -> None:
        with quiet.between_calls(patience_s=30):
            entered.set()

    with quiet.measuring():
        thread = threading.Thread(target=company)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join()
    with quiet.measuring(), quiet.between_calls(patience_s=0.05):
        leave.set()
    assert leave.is_set()
    with quiet.measuring():
        pass  # and it is free again


def test_the_judge_keeps_all_its_threads_on_its_core_and_lets_them_go_again() -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    inside: list[set[int]] = []
    go, done = threading.Event(), threading.Event()
    other = threading.Thread(
        target=lambda: (go.wait(), inside.append(set(os.sched_getaffinity(0))), done.set())
    )
    other.start()
    with judge_on(core):
        inside.append(set(os.sched_getaffinity(0)))
        go.set()
        done.wait(5)
    other.join()
    assert inside == [{core}, {core}]
    assert os.sched_getaffinity(0) == before


def test_scrubbing_comes_back_home_and_covers_the_private_cache() -> None:
    cores = choose_cores()
    home = os.sched_getaffinity(0)
    scrubber = CacheScrubber(cores.measuring)
    scrubber.scrub()
    assert os.sched_getaffinity(0) == home
    assert scrubber.size_bytes >= 2 * l2_bytes(cores.measuring)


@pytest.mark.parametrize(
    ("pass_ns", "calls", "is_shared"), [(2_000_000, 60, True), (3_000_000, 60, False), (3_000_000, 50, True)]
)
def test_the_shared_cache_is_scrubbed_where_that_is_less_than_a_tenth_of_a_pair(
    pass_ns: int, calls: int, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = choose_cores().measuring
    monkeypatch.setattr("benchmarks.pairs.cores.shared_bytes", lambda core: 64 << 20)
    monkeypatch.setattr("benchmarks.pairs.cores._pass_ns", lambda core, size: pass_ns)
    assert scrubbed_bytes(core, calls) == (64 << 20 if is_shared else 2 * l2_bytes(core))
    monkeypatch.setattr("benchmarks.pairs.cores.shared_bytes", lambda core: 0)
    assert scrubbed_bytes(core, calls) == 2 * l2_bytes(core)


def test_the_time_of_a_pass_grows_with_its_size() -> None:
    core = choose_cores().measuring
    assert 0 < _pass_ns(core, 4 << 20) < _pass_ns(core, 256 << 20)
    assert shared_bytes(core) >= 0


def test_cores_are_two_where_there_are_two() -> None:
    cores = choose_cores()
    assert set(cores.all) <= os.sched_getaffinity(0)
    assert len(cores.all) == min(2, len(os.sched_getaffinity(0)))
    assert Cores(0, 0).all == (0,)


def test_pinning_holds_every_thread_of_a_process() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    tasks = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    before = {task: os.sched_getaffinity(task) for task in tasks}
    try:
        pin([os.getpid()], choose_cores().measuring)
        assert len(tasks) >= 2
        for task in tasks:
            assert os.sched_getaffinity(task) == {choose_cores().measuring}
    finally:
        for task, cores in before.items():
            os.sched_setaffinity(task, cores)
        release.set()
        thread.join()


def test_the_roofline_is_generous_but_not_endless() -> None:
    assert peak_flops("processor : 0\ncpu MHz\t\t: 2600.000\n") == 2 * 64 * 2_600_000_000
    assert peak_flops("processor : 0\n") == 2 * 64 * 4_000_000_000
    assert floor_ns(peak_flops(), "cpu") == 1_000_000_000
    assert floor_ns(0, "cpu") == floor_ns(0, "cuda") == 0
    assert floor_ns(peak_flops(), "cuda") < floor_ns(peak_flops(), "cpu")


def test_the_fingerprint_names_the_machine_in_text_and_whole_numbers() -> None:
    found = environment(extra=3)
    assert found["extra"] == 3 and found["cores"] >= 1
    assert all(type(value) in (str, int, dict) for value in found.values())
    assert set(found["packages"]) == {"torch", "numpy", "cryptography"}
    for what in (*found["packages"].values(), found["compiler"]):
        assert what["version"] and all(type(value) is str for value in what.values())
        assert len(what["digest"]) in (0, 64)
    assert found["packages"]["numpy"] == {"version": np.__version__, "digest": record_digest("numpy")}
    assert cpu_name("model name : Fast One\ncpu family : 6\nmodel : 1\nstepping : 2\n") == "Fast One (6/1/2)"
