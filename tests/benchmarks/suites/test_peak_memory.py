"""Suite peak_memory: a value per side in bytes, checked answers, and more memory is seen."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.catalogue.decoders import PEAK_STEPS
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.sandbox.page_cache import python_files
from benchmarks.suites.base import Problem, Tensors, TensorSpec, Trial
from benchmarks.suites.peak_memory import peak_memory
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw

EXECUTOR = "model/serving/executors/native.py"
# Every step takes 200 MB more for a moment, which the kernel gives because they are written to.
WASTEFUL = """

_honest = NativeExecutor.step


def _step(self, parts):
    waste = torch.ones(50_000_000)
    logits_NV = _honest(self, parts)
    return logits_NV + 0 * waste[0].item()


NativeExecutor.step = _step
"""
# Saves the memory of all sequences but the first by not reading them.
READS_ONE = """

_honest = NativeExecutor.step


def _step(self, parts):
    return _honest(self, parts[:1]).repeat(len(parts), axis=0)


NativeExecutor.step = _step
"""


class FakeSides:
    """Both sides in this process; a candidate's answers may be changed on their way."""

    def __init__(
        self, problem: Problem, change: Callable[[Tensors], Tensors] = lambda answers: answers
    ) -> None:
        suite = peak_memory("tiny")
        self.sides = {name: InProcess(suite, problem) for name in ("base", "candidate")}
        self.names = ("candidate", "base")
        self.change = change
        self.called: list[str] = []
        self.counts = [0, 0]

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        self.called.append(name)
        answers = self.sides[name].ask(inputs)
        return (self.change(answers) if name == "candidate" else answers), 1

    def peak_memory_bytes(self, name: str) -> int:
        return {"base": 2000, "candidate": 1000}[name]

    def numbers(self, *label: str | int) -> np.random.Generator:
        return Seeds(SECRET).numbers(*label)

    def checked(self, *, with_oracle: bool) -> None:
        self.counts[with_oracle] += 1

    def fail(self, kind: str, name: str, detail: str) -> Exception:
        return SideFailed(kind, name, "call", detail)


def trial() -> Trial:
    return peak_memory("tiny").trial


def test_both_sides_do_the_same_work_and_the_cgroup_s_peaks_are_the_values() -> None:
    problem = draw(peak_memory("tiny"))
    sides = FakeSides(problem)
    assert trial().run(problem, sides, random.Random(1)) == {"base": 2000, "candidate": 1000}
    assert sides.called.count("base") == sides.called.count("candidate") == PEAK_STEPS + 1
    assert sides.counts == [PEAK_STEPS - 1, 2]  # the prompts and the last step with the oracle


def test_a_wrong_answer_ends_the_trial() -> None:
    problem = draw(peak_memory("tiny"))
    sides = FakeSides(problem, lambda answers: {"logits": answers["logits"] * np.float32(1.001)})
    with pytest.raises(SideFailed) as failed:
        trial().run(problem, sides, random.Random(1))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
    assert sides.called.count("base") == 1


def test_equal_but_inexact_answers_are_found_by_the_oracle() -> None:
    problem = draw(peak_memory("tiny"))
    sides = FakeSides(problem)
    for side in sides.sides.values():
        side.state["engine"].executor._model.eps = 1e-3
    with pytest.raises(SideFailed) as failed:
        trial().run(problem, sides, random.Random(1))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "base")


@pytest.mark.parametrize("preset", ["demo", "standard"])
def test_prompts_need_more_memory_than_loading(preset: str) -> None:
    """Loading holds the weights three times: as they came, in the transformer, and packed."""
    suite = peak_memory(preset)
    problem = draw(suite)
    shape = problem.shape
    weights = sum(value.nbytes for value in problem.weights.values())
    cached = 2 * shape["n_layers"] * shape["n_kv_heads"] * shape["d_head"] * sum(problem.lengths) * 4
    assert cached + problem.config["step_tokens"] * shape["d_model"] * 4 * 10 > 3 * weights


@pytest.mark.sandbox
@pytest.mark.measures
def test_in_real_sandboxes_equal_trees_use_equal_memory_and_wrong_answers_are_found(
    open_folder: Path,
) -> None:
    suite, trees = peak_memory("tiny"), Trees(open_folder)
    values = dict(trees.measure(suite, trees.shipped).calls)
    assert 50_000_000 < values["base"] < suite.memory_bytes
    assert abs(values["candidate"] / values["base"] - 1) < 0.04
    with pytest.raises(SideFailed) as failed:
        trees.measure(suite, trees.appended(EXECUTOR, READS_ONE))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")


def drop_python_from_page_cache() -> None:
    """What the kernel does by itself where memory is short. Pages that a process has mapped stay."""
    packages = Path(sysconfig.get_path("platlib"))
    for path in {*python_files(), *filter(Path.is_file, packages.rglob("*.so*"))}:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.sandbox
@pytest.mark.measures
def test_files_that_the_kernel_dropped_are_in_no_side_s_peak(open_folder: Path) -> None:
    suite, trees = peak_memory("tiny"), Trees(open_folder)
    drop_python_from_page_cache()
    values = dict(trees.measure(suite, trees.shipped).calls)
    assert abs(values["candidate"] / values["base"] - 1) < 0.02


@pytest.mark.sandbox
@pytest.mark.measures
def test_in_real_sandboxes_waste_is_seen(open_folder: Path) -> None:
    suite, trees = peak_memory("tiny"), Trees(open_folder)
    values = dict(trees.measure(suite, trees.appended(EXECUTOR, WASTEFUL)).calls)
    assert values["candidate"] - values["base"] > 150_000_000
