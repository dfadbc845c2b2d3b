"""Measuring again what an evidence file says."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rerun
from benchmarks.evidence.document import seal
from benchmarks.evidence.signing import generate_key
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.trees import BlobStore, read_tree, shipped_tree
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs

TEXTBOOK = Path(__file__).resolve().parents[2] / "examples" / "base" / "textbook_moe.diff"
GAIN = {"kind": "gain", "log_ppm_estimate": 200_000, "log_ppm_bound": 100_000}


def verdict(kind: str, estimate: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "log_ppm_estimate": estimate, "log_ppm_bound": None, "reason": "because"}


@pytest.mark.parametrize(
    ("found", "agrees"),
    [
        (verdict("gain", 90_000), True),
        (verdict("gain", 50_000), True),
        (verdict("gain", 49_999), False),  # less than half of what was stated
        (verdict("no_gain", 90_000), False),
        (verdict("wrong_output"), False),
    ],
)
def test_a_gain_is_found_again_or_not(found: dict[str, Any], agrees: bool) -> None:
    assert rerun.compare("gate", GAIN, found).agrees is agrees


def test_other_verdicts_agree_by_their_kind() -> None:
    assert rerun.compare("gate", verdict("no_gain", 3), verdict("no_gain", -9)).agrees
    assert not rerun.compare("gate", verdict("no_gain", 3), verdict("regression", -90_000)).agrees


def test_a_regressions_bound_is_called_an_upper_one() -> None:
    slower = {**verdict("regression", -90_000), "log_ppm_bound": -80_000}
    lines = rerun.summary(rerun.compare("gate", GAIN, slower)).splitlines()
    assert lines[0] == "stated:   gain, +22.1 % (lower bound +10.5 %)"
    assert lines[1] == "measured: regression, -8.7 % (upper bound -7.7 %)"


def evidence_file(folder: Path, **changed: Any) -> Path:
    path = folder / "evidence.json"
    path.write_text(json.dumps(seal(make_document(make_pairs(1.0, 24), **changed), generate_key())))
    return path


def test_other_trees_than_those_of_the_evidence_are_refused(
    open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = evidence_file(open_folder)
    assert rerun.main([str(file), "--base", "shipped", "--candidate", "shipped"]) == 2
    assert "expected is 000000000000" in capsys.readouterr().err


def test_trees_of_an_older_layout_are_not_measured_again(
    open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_folder / "old"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "checkpoint.py").write_text("x = 1\n")
    old = read_tree(folder, BlobStore(open_folder / "blobs"))
    file = evidence_file(open_folder, trees={"base": old.hash, "candidate": old.hash})
    assert rerun.main([str(file), "--base", str(folder), "--candidate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "older layout" in error and "without --rerun" in error


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "it holds no sealed document"),
        ("[1]", "it holds no sealed document"),
        ('{"document": []}', "it holds no sealed document"),
        ('{"document": {}}', "is missing"),
        ("\x00", "this is not JSON"),
    ],
)
def test_a_file_that_is_no_evidence_is_refused(
    text: str, why: str, open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = open_folder / "other.json"
    path.write_text(text)
    assert rerun.main([str(path), "--base", "shipped", "--candidate", "shipped"]) == 2
    said = capsys.readouterr().err
    assert "no evidence file" in said and why in said


@pytest.mark.sandbox
@pytest.mark.measures
def test_both_trees_are_measured_again(open_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The textbook loop, stated as a gain of a third over the shipped form: the machine must not agree."""
    store = BlobStore(open_folder / "blobs")
    shipped = shipped_tree(store)
    textbook = apply_patch(shipped, parse_patch(TEXTBOOK.read_bytes()), store)
    parts: dict[str, Any] = {"trees": {"base": shipped.hash, "candidate": textbook.hash}}
    document = make_document(make_pairs(1.4, 6), **parts)
    assert document["verdict"]["kind"] == "gain"
    document["suite"]["preset"] = "tiny"
    path = open_folder / "evidence.json"
    path.write_text(json.dumps(seal(document, generate_key())))
    assert rerun.main([str(path), "--base", "shipped", "--candidate", str(TEXTBOOK), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["stated_kind"], found["kind"], found["agrees"]) == ("gain", "regression", False)
