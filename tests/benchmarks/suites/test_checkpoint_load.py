"""Suite checkpoint_load: a fresh checkpoint per call, loaded by the stack's own loader, and nothing known beforehand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from benchmarks.catalogue.decoders import CHECKPOINT_CAP_BYTES, HEADER_BYTES
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import WARM_UP, Tensors
from benchmarks.suites.checkpoint_load import (
    CheckpointLoadProblem,
    checkpoint_load,
    header,
)
from benchmarks.suites.decoder_problem import draw_weights
from benchmarks.suites.prefill import prefill
from tests.benchmarks.suites.suite_pairs import SECRET, InProcess, Trees, draw, sample_half, verdict_on
from tests.needs_torch import needs_cuda

CHECKPOINT = "model/checkpoint.py"
# What a process leaves for its next load, in its own memory and wherever it can write.
LOADS_ONCE = """

import copy as _copy
import os as _os

_honest = load_transformer
_loaded = []
_PLACES = ("/tmp/loaded", "/dev/shm/loaded", "/var/tmp/loaded")


def load_transformer(folder, dtype=None):
    if _loaded or any(map(_os.path.exists, _PLACES)):
        raise RuntimeError("this process has loaded before")
    _loaded.append(_copy.deepcopy(_honest(folder, dtype)))
    for place in _PLACES:
        try:
            open(place, "w").close()
        except OSError:
            pass
    return _copy.deepcopy(_loaded[0])
"""


FORGETS_A_LAYER = """

_honest = load_transformer


def load_transformer(folder, dtype=None):
    model = _honest(folder, dtype)
    for parameter in model.layers[-1].parameters():
        parameter.zero_()
    return model
"""


def numbers(label: str, turn: int) -> np.random.Generator:
    return Seeds(SECRET).numbers(label, turn)


def turn_of(problem: CheckpointLoadProblem, turn: int) -> tuple[Tensors, Tensors]:
    """The untimed and the timed call of a turn."""
    return problem.before(numbers("before", turn), turn), problem.draw_inputs(numbers("inputs", turn), turn)


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is next to the sample's half inside the sandbox."""
    monkeypatch.setitem(sys.modules, "decoder_sample", sample_half(prefill("tiny")))
    return


@pytest.mark.parametrize(
    "preset", ["tiny", *[pytest.param(size, marks=pytest.mark.long) for size in ("demo", "standard")]]
)
def test_the_shipped_loader_passes_the_checks_it_is_measured_by(preset: str, helpers: None) -> None:
    suite = checkpoint_load(preset)
    problem = draw(suite, 1)
    side = InProcess(suite, problem)
    for turn in (WARM_UP, 0):
        stored, asked = turn_of(problem, turn)
        for inputs in (stored, asked):
            answers = side.ask(inputs)
            assert verdict_on(suite, problem, problem.plain(inputs, turn), answers, inputs, turn) is None


@needs_cuda("checkpoint_load was not run on one")
def test_the_shipped_loader_on_cuda_passes_the_checks(helpers: None) -> None:
    suite = checkpoint_load("demo")
    problem = draw(suite)
    side = InProcess(suite, problem, "cuda")
    stored, asked = turn_of(problem, WARM_UP)
    side.ask(stored)
    assert verdict_on(suite, problem, problem.plain(asked, WARM_UP), side.ask(asked), asked, WARM_UP) is None


def test_header_and_data_together_are_a_safetensors_file_of_the_turn_s_weights() -> None:
    problem = draw(checkpoint_load("tiny"))
    stored, asked = turn_of(problem, 0)
    loaded = load_safetensors(asked["header"].tobytes() + stored["data"].tobytes())
    held = problem._checkpoint(0).weights
    assert loaded.keys() == held.keys()
    for name, value in held.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_each_turn_has_a_checkpoint_of_its_own_in_an_order_of_its_own() -> None:
    problem = draw(checkpoint_load("tiny"))
    (first, first_asked), (second, second_asked) = turn_of(problem, 0), turn_of(problem, 1)
    assert first["data"].shape == second["data"].shape
    assert np.mean(first["data"] == second["data"]) < 0.1
    names = [list(json.loads(asked["header"].tobytes()[8:])) for asked in (first_asked, second_asked)]
    assert names[0] != names[1] and sorted(names[0]) == sorted(names[1])
    assert "data" not in first_asked and "header" not in first


def test_answers_of_an_earlier_turn_can_be_checked_after_the_next_was_drawn() -> None:
    problem = draw(checkpoint_load("tiny"))
    _, asked = turn_of(problem, 0)
    at_once = problem.exact(asked, 0)["logits"], problem.plain(asked, 0)["logits"]
    turn_of(problem, 1)
    np.testing.assert_array_equal(problem.exact(asked, 0)["logits"], at_once[0])
    np.testing.assert_array_equal(problem.plain(asked, 0)["logits"], at_once[1])


def test_weights_of_another_turn_are_found(helpers: None) -> None:
    suite = checkpoint_load("tiny")
    problem = draw(suite)
    side = InProcess(suite, problem)
    stored, _ = turn_of(problem, 0)
    side.ask(stored)
    stale = side.state["folder"] / "model.safetensors"
    kept = stale.read_bytes()
    stored, asked = turn_of(problem, 1)
    side.ask(stored)
    honest = side.ask(asked)
    stale.write_bytes(kept)
    found = verdict_on(suite, problem, honest, side.ask(asked), asked, 1)
    assert found is not None and found.side == "candidate"


def test_a_short_write_is_found(helpers: None) -> None:
    suite = checkpoint_load("tiny")
    problem = draw(suite)
    stored, _ = turn_of(problem, 0)
    right = InProcess(suite, problem).ask(stored)
    assert right["stored"].tolist() == [stored["data"].size]
    found = verdict_on(suite, problem, right, {"stored": right["stored"] - 1}, stored, 0)
    assert found is not None and found.side == "candidate"


@pytest.mark.parametrize("preset", ["tiny", "demo", "standard"])
def test_the_largest_checkpoint_of_a_family_is_below_the_cap(preset: str) -> None:
    (case,) = checkpoint_load(preset).cases
    largest = {name: max(choices) for name, choices in case.dimensions.items()} | {"tied": 0}
    weights = draw_weights(largest, np.random.default_rng(0))
    size = sum(value.nbytes for value in weights.values())
    assert HEADER_BYTES + size <= CHECKPOINT_CAP_BYTES
    assert header(weights, list(weights)).size == HEADER_BYTES


def test_a_header_that_does_not_fit_is_refused() -> None:
    weights = {f"layer.{number}": np.zeros(1, np.float32) for number in range(600)}
    with pytest.raises(ValueError, match="HEADER_BYTES"):
        header(weights, list(weights))


@pytest.mark.sandbox
def test_in_real_sandboxes_no_process_loads_twice_and_none_finds_what_another_left(open_folder: Path) -> None:
    suite, trees = checkpoint_load("tiny"), Trees(open_folder)
    remembers = trees.appended(CHECKPOINT, LOADS_ONCE)
    for _ in range(2):
        record = trees.measure(suite, remembers)
        assert sorted(side for side, _ in record.calls) == ["base", "candidate"]
        assert (record.outputs_checked, record.oracle_checked) == (2, 2)


@pytest.mark.sandbox
def test_in_real_sandboxes_a_loader_that_answers_without_the_weights_is_found(open_folder: Path) -> None:
    suite, trees = checkpoint_load("tiny"), Trees(open_folder)
    with pytest.raises(SideFailed) as failed:
        trees.measure(suite, trees.appended(CHECKPOINT, FORGETS_A_LAYER))
    assert (failed.value.kind, failed.value.side) == ("wrong_output", "candidate")
