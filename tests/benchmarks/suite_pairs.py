"""Suites under test: their sandboxed half within the test's own process, and whole pairs of real sandboxes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.pairs.checks import WrongAnswer, compare_oracle, compare_pair
from benchmarks.pairs.clocked import PairRecord
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideSetup
from benchmarks.patches import apply_patch, diff_trees, parse_patch
from benchmarks.sandbox import best_level
from benchmarks.suites import Suite, tensors
from benchmarks.suites.base import Problem, Tensors
from benchmarks.tree_folders import tree_folders
from benchmarks.trees import BlobStore, Tree, TreeEntry, shipped_tree

SECRET = bytes(range(32))


def sample_half(suite: Suite) -> ModuleType:
    """The module that is mounted into the sandbox, ready for one thread on the CPU."""
    beside = {"tensors": tensors}  # what lies beside the sample's half inside the sandbox
    sys.modules.update(beside)
    try:
        for helper in suite.sample_helpers:
            beside[helper.stem] = sys.modules[helper.stem] = _load(helper.stem, helper)
        module = _load("suite_sample", suite.sample_module)
    finally:
        for name in beside:
            del sys.modules[name]
    module.prepare(1, "cpu")
    return module


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_frames(values: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...], memoryview]]:
    return {
        name: (str(value.dtype), value.shape, memoryview(bytearray(value.tobytes())))
        for name, value in values.items()
    }


class InProcess:
    """One side without a sandbox: the sample's half with its state."""

    def __init__(self, suite: Suite, problem: Problem, device: str = "cpu") -> None:
        self.half = sample_half(suite)
        self.problem = problem
        self.state = self.half.build({**problem.config, "device": device}, as_frames(problem.weights))

    def ask(self, inputs: Tensors) -> Tensors:
        """Its answers; fails where their names, types or shapes are not those that the judge asks for."""
        raw = self.half.call(self.state, as_frames(inputs))
        answers: Tensors = {}
        for spec in self.problem.outputs_for(inputs):
            dtype, shape, data = raw.pop(spec.name)
            assert (dtype, tuple(shape)) == (spec.dtype, spec.shape), spec
            answers[spec.name] = np.frombuffer(bytes(data), dtype=spec.dtype).reshape(spec.shape)
        assert not raw, f"answers nobody asked for: {sorted(raw)}"
        return answers


def verdict_on(
    suite: Suite, problem: Problem, base: Tensors, candidate: Tensors, inputs: Tensors, turn: int
) -> WrongAnswer | None:
    """What the judge says of one call's answers, the oracle included."""
    return compare_pair(base, candidate, problem, inputs, turn, suite.tolerance_of) or compare_oracle(
        base, candidate, problem, inputs, turn, suite.tolerance_of
    )


def draw(suite: Suite, number: int = 0, case: int = 0) -> Problem:
    seeds = Seeds(SECRET)
    return suite.problem(suite.cases[case].draw(seeds.numbers("shape", number)), seeds.numbers("p", number))


class Trees:
    """The shipped stack and patches of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, BlobStore(folder / "blobs")
        self.shipped = shipped_tree(self.store)

    def appended(self, path: str, text: str) -> Tree:
        """The shipped tree with `text` behind one of its files, by way of a real patch."""
        entry = self.shipped.get(path)
        assert entry is not None
        blob = self.store.put(self.store.get(entry.blob) + text.encode())
        entries = [
            TreeEntry(path, old.mode, blob) if old.path == path else old for old in self.shipped.entries
        ]
        patch = parse_patch(diff_trees(self.shipped, Tree(tuple(entries)), self.store))
        return apply_patch(self.shipped, patch, self.store)

    def measure(self, suite: Suite, candidate: Tree) -> PairRecord:
        """One pair of real sandboxes, shipped against candidate. Raises SideFailed."""
        with self._pair(suite, candidate) as pair:
            pair.measure()
        return pair.record

    @contextmanager
    def _pair(self, suite: Suite, candidate: Tree) -> Iterator[Pair]:
        seeds = Seeds.fresh()[1]
        plan = PairPlan(0, False, suite.cases[0].name, suite.cases[0].draw(seeds.numbers("shape")))
        setup = SideSetup(suite, best_level(), choose_cores())
        trees = {self.shipped.hash: self.shipped, candidate.hash: candidate}
        with tree_folders(tuple(trees.values()), self.store, self.folder / "trees") as folders:
            places = {"base": folders[self.shipped.hash], "candidate": folders[candidate.hash]}
            pair = Pair(plan, places, setup, seeds, Phases(), Quiet(), SampleLog(print))
            try:
                pair.prepare()
                yield pair
            finally:
                pair.close()
