"""Suites under test: their sandboxed half within the test's own process, and whole pairs of real sandboxes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.pairs.checks import WrongAnswer, compare_oracle, compare_pair
from benchmarks.pairs.clocked import PairRecord
from benchmarks.pairs.seeds import Seeds
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree
from benchmarks.suites import Suite
from benchmarks.suites.base import Exchange, Problem, Tensors, joined
from benchmarks.suites.samples import tensors
from tests.benchmarks.pairs.real_pairs import prepared_pair, replaced

SECRET = bytes(range(32))


def sample_half(suite: Suite) -> ModuleType:
    """The module that is mounted into the sandbox, ready for one thread on the CPU."""
    beside = {"tensors": tensors}  # what is next to the sample's half inside the sandbox
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
        """Its answers to all messages of a call, whose forms are those that the judge asks for."""
        answers = joined([self.send(exchange) for exchange in self.problem.exchanges(inputs)])
        expected = {spec.name: (spec.dtype, spec.shape) for spec in self.problem.outputs_for(inputs)}
        assert {name: (str(value.dtype), value.shape) for name, value in answers.items()} == expected
        return answers

    def send(self, exchange: Exchange) -> Tensors:
        raw = self.half.call(self.state, as_frames(exchange.inputs))
        answers: Tensors = {}
        for spec in exchange.outputs:
            dtype, shape, data = raw.pop(spec.name)
            assert (dtype, tuple(shape)) == (spec.dtype, spec.shape), spec
            answers[spec.name] = np.frombuffer(bytes(data), dtype=spec.dtype).reshape(spec.shape)
        assert not raw, f"answers that were not asked for: {sorted(raw)}"
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

    def appended(self, path: str, text: str, *, to: Tree | None = None) -> Tree:
        """The shipped tree, or `to`, with `text` behind one of its files, by way of a real patch."""
        tree = to or self.shipped
        entry = tree.get(path)
        assert entry is not None
        return replaced(tree, path, self.store.get(entry.blob) + text.encode(), self.store)

    def measure(self, suite: Suite, candidate: Tree) -> PairRecord:
        """One pair of real sandboxes, shipped against candidate. Raises SideFailed."""
        with prepared_pair(suite, self.shipped, candidate, store=self.store, folder=self.folder) as pair:
            pair.measure()
        return pair.record
