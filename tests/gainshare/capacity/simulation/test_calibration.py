"""Calibrations: the shipped one, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gainshare.capacity.simulation.rates import CalibrationError, parse, read, shipped


def test_the_shipped_one_names_its_machine_date_and_command() -> None:
    found = shipped()
    assert "core" in found.machine
    assert found.date[:2] == "20"
    assert found.command.startswith("python -m benchmarks.capacity.calibrate")
    measures = (
        "first token median",
        "first token p99",
        "time for each token median",
        "time for each token p99",
    )
    assert tuple(found.error) in (measures, ())
    assert found.machine in found.says()
    assert ("not compared" in found.says()) is (not found.error)
    assert 1e-5 < found.rates.prompt_token_s < 1e-1


def test_it_is_written_as_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(shipped().to_json(), encoding="utf-8")
    assert read(file) == shipped()


@pytest.mark.parametrize("wrong", ["", "[]", "{}", '{"rates": {}}', "negative", "zero", "text"])
def test_what_is_none_is_refused_with_the_command_that_makes_one(wrong: str) -> None:
    document = json.loads(shipped().to_json())
    if wrong == "negative":
        document["rates"]["step_s"] = -1
    elif wrong == "zero":
        document["rates"] |= {"step_s": 0, "prompt_token_s": 0}
    elif wrong == "text":
        document["rates"]["step_s"] = "quick"
    text = json.dumps(document) if wrong in ("negative", "zero", "text") else wrong
    with pytest.raises(
        CalibrationError, match=r"x\.json is no calibration .*benchmarks\.capacity\.calibrate"
    ):
        parse(text, "x.json")
