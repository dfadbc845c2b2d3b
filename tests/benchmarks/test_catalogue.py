"""The catalogue says what the suites draw, and the reference says what the catalogue says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.catalogue import SUITES, UnknownSuite
from benchmarks.catalogue import __main__ as command
from benchmarks.catalogue.decoders import (
    CHECKPOINT_CAP_BYTES,
    HEADER_BYTES,
    STEP_TOKENS,
    parameter_ends,
    prompts,
    transformer_parameters,
)
from benchmarks.catalogue.facts import MIB, around, span, spread
from benchmarks.catalogue.tables import tables
from benchmarks.suites import get_suite
from benchmarks.suites.checkpoint_load import CheckpointLoadProblem
from benchmarks.suites.decode import DecodeProblem
from benchmarks.suites.decoder_problem import draw_weights
from benchmarks.suites.prefill import PrefillProblem

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs/reference/suites.md").read_text(encoding="utf-8")
SIZED = [(name, preset) for name, info in SUITES.items() for preset in info.sizes]
DECODERS = [(name, preset) for name, preset in SIZED if name in ("prefill", "decode", "decode_batched")]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("number", range(5))
def test_the_reference_has_the_catalogue_s_tables(number: int) -> None:
    assert tables()[number] in REFERENCE, "python -m benchmarks.catalogue prints the table of today"


def test_the_command_prints_what_the_reference_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert printed.strip().split("\n\n") == tables()
    assert "python -m benchmarks.catalogue" in REFERENCE


def test_the_reference_s_prose_has_the_catalogue_s_figures() -> None:
    assert f"in the scheduler's steps of {STEP_TOKENS} tokens" in REFERENCE
    assert f"safetensors of at most {CHECKPOINT_CAP_BYTES // MIB} MiB" in REFERENCE.replace("\n", " ")
    (start_ms,) = {size.time_limits.start_ms for info in SUITES.values() for size in info.sizes.values()}
    assert f"has {start_ms // 1000} s to start" in REFERENCE.replace("\n", " ")


def test_the_catalogue_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, benchmarks.catalogue.tables; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_preset_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UnknownSuite, match="decode has no preset 'huge'; presets: demo, standard, tiny"):
        SUITES["decode"].size("huge")


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n, p in SIZED if p in SUITES[n].presets])
def test_a_preset_s_description_has_every_case_s_size(name: str, preset: str) -> None:
    info = SUITES[name].presets[preset]
    if info.is_for_demos:
        return
    for case in get_suite(name, preset).cases:
        assert case.call in info.description and case.model in info.description


@pytest.mark.parametrize(("name", "preset"), DECODERS)
def test_a_call_s_text_has_the_lengths_that_are_drawn(name: str, preset: str) -> None:
    for case in get_suite(name, preset).cases:
        longest = "tokens" if name == "prefill" else "context"
        problem = PrefillProblem if name == "prefill" else DecodeProblem
        lengths: list[int] = []
        for end in (min, max):
            shape = {key: end(choices) for key, choices in case.dimensions.items()}
            small = shape | {"vocab": 64, "d_model": 8, "n_layers": 1, "d_ff": 8, "d_expert": 8}
            for sequences in case.dimensions["sequences"]:
                drawn = problem(small | {"sequences": sequences}, rng())
                assert max(drawn.lengths) == shape[longest]
                lengths += drawn.lengths
        assert f"of {span(lengths)} ids" in case.call


@pytest.mark.parametrize("preset", ["tiny", "demo"])
def test_parameters_are_those_of_the_drawn_weights(preset: str) -> None:
    for name in ("prefill", "checkpoint_load", "peak_memory"):
        for case in get_suite(name, preset).cases:
            shape = case.draw(rng())
            weights = sum(value.size for value in draw_weights(shape, rng()).values())
            assert transformer_parameters(shape) == weights
            least, most = parameter_ends(case.dimensions)
            assert least <= weights <= most


def test_a_checkpoint_s_text_has_the_bytes_that_are_sent() -> None:
    (case,) = get_suite("checkpoint_load", "tiny").cases
    sent = set()
    for tied in (1, 0):
        end = min if tied else max
        shape = {key: end(choices) for key, choices in case.dimensions.items()} | {"tied": tied}
        data = CheckpointLoadProblem(shape, rng()).before(rng(), 0)["data"]
        sent.add(f"{(data.size + HEADER_BYTES) / 1e6:.2g}")
    least, most = sorted(sent)
    assert f"a checkpoint of {least}-{most} MB" in case.call


def test_a_changed_shape_changes_the_text() -> None:
    assert prompts("demo", "a", 2, around(200, 20), 512).call == "2 prompts of 90-220 ids"
    assert prompts("demo", "a", 1, around(300, 20), 512).call == "1 prompt of 280-320 ids"


def test_spread_and_spans() -> None:
    assert spread(200, 1) == [200]
    assert spread(200, 5) == [100, 125, 150, 175, 200]
    assert (span((7,)), span((2000, 1000, 3))) == ("7", "3-2,000")
