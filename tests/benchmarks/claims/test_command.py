"""The command line of the claims, and the page that it writes; with claims of this file instead of the stack's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.claims import __main__ as command
from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.registry import CLAIMS
from benchmarks.claims.scale import Scale
from benchmarks.report import MeasuringFailed, Row

HELD = Row("speed", 2.0, "x", "2x", True, "a | pipe and\na line")
MISSED = Row("memory", -10.0, "%", "-70%", False, "too little")
OPEN = Row("placement", None, "x", "3.2x", None, "not measured here")


def claim(name: str, *rows: Row, figures: tuple[Figure, ...] = ()) -> Claim:
    return Claim(name, f"{name} is good", lambda bench, scale: Measured(rows, figures))


def _broken(bench: Bench, scale: Scale) -> Measured:
    raise MeasuringFailed("no second core")


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> dict[str, Claim]:
    figure = Figure(
        "Loss", "tokens", "nats", [Curve("mine", [1.0, 2.0], [3.0, 2.0]), Curve("theirs", [1.0], [4.0])]
    )
    own = {"one": claim("one", HELD, figures=(figure,)), "two": claim("two", MISSED, OPEN)}
    monkeypatch.setattr(command, "CLAIMS", own)
    return own


def test_all_claims_print_one_document(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--quick", "--json", "--output", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["command", "date", "commit", "machine", "rows"]
    assert document["command"] == "python -m benchmarks.claims --quick"
    assert [row["name"] for row in document["rows"]] == ["speed", "memory", "placement"]
    assert [row["holds"] for row in document["rows"]] == [True, False, None]


def test_named_claims_alone_are_measured(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--quick", "--json", "--output", str(tmp_path), "two"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["memory", "placement"]


def test_an_unknown_claim_lists_those_that_there_are(
    claims: dict[str, Claim], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["three"])
    assert ended.value.code == 2
    assert "unknown claim three: choose of one, two" in capsys.readouterr().err


def test_what_cannot_be_measured_does_not_end_the_others(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims["one"] = Claim("one", "one is good", _broken)
    assert command.main(["--quick", "--json", "--output", str(tmp_path)]) == 1
    first, *rest = json.loads(capsys.readouterr().out)["rows"]
    assert (first["name"], first["value"], first["holds"]) == ("one", None, None)
    assert first["how"] == "could not be measured: no second core"
    assert [row["name"] for row in rest] == ["memory", "placement"]


def test_a_full_run_is_the_default_and_writes_the_page(
    claims: dict[str, Claim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    assert command.main(["--json", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    assert "Full scale, 20" in page
    assert "`python -m benchmarks.claims --full`" in page
    assert "1 figures meet their target, 1 miss it" in page
    assert "| speed | 2 x | 2x | yes | a \\| pipe and a line |" in page
    assert "| memory | -10 % | -70% | **no** | too little |" in page
    assert "| placement | - | 3.2x |  | not measured here |" in page
    assert "![Loss](figures/claims-one.svg)" in page
    drawn = (tmp_path / "docs" / "figures" / "claims-one.svg").read_text(encoding="utf-8")
    assert "<svg" in drawn
    assert "mine" in drawn


@pytest.mark.parametrize("arguments", [["--quick"], ["--full", "two"]], ids=["quick", "named"])
def test_a_partial_run_leaves_the_page_alone(
    claims: dict[str, Claim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    command.main([*arguments, "--output", str(tmp_path)])
    assert not (tmp_path / "docs").exists()


def page_of(folder: Path, *arguments: str) -> str:
    command.main([*arguments, "--docs", str(folder / "page"), "--output", str(folder)])
    return (folder / "page" / "claims.md").read_text(encoding="utf-8")


def test_a_quick_page_says_that_it_is_one(claims: dict[str, Claim], tmp_path: Path) -> None:
    page = page_of(tmp_path, "--quick")
    assert page.count("Quick scale, 20") == 2
    assert "Full scale" not in page


def test_a_claim_that_was_never_measured_says_how_to(claims: dict[str, Claim], tmp_path: Path) -> None:
    page = page_of(tmp_path, "--quick", "one")
    assert "Not measured yet: `python -m benchmarks.claims --docs docs/lab two`" in page


def test_claims_measured_one_by_one_stand_on_one_page(claims: dict[str, Claim], tmp_path: Path) -> None:
    page_of(tmp_path, "--quick")
    page = page_of(tmp_path, "--full", "two")
    assert "`python -m benchmarks.claims --quick`" in page
    assert "`python -m benchmarks.claims --full two`" in page
    assert "| speed | 2 x | 2x | yes |" in page and "| memory | -10 % |" in page
    assert "![Loss](figures/claims-one.svg)" in page


def test_a_quick_run_does_not_hide_a_full_one(claims: dict[str, Claim], tmp_path: Path) -> None:
    page_of(tmp_path, "--full")
    claims["two"] = claim("two", OPEN)
    page = page_of(tmp_path, "--quick", "two")
    assert "| memory | -10 % |" in page
    claims["two"] = claim("two", OPEN)
    assert "| memory | -10 % |" not in page_of(tmp_path, "--full", "two")


def test_a_claim_that_fails_keeps_what_was_measured_before(claims: dict[str, Claim], tmp_path: Path) -> None:
    before = page_of(tmp_path, "--full")
    claims["one"] = Claim("one", "one is good", _broken)
    assert page_of(tmp_path, "--full", "one") == before


@pytest.mark.parametrize("content", [b'{"one": {"full": {}}}', b"[]", b"{", b"\xff"])
def test_a_damaged_record_is_named_before_anything_is_measured(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    page_of(tmp_path, "--quick")
    (tmp_path / "page" / "figures" / "claims.json").write_bytes(content)
    claims["one"] = Claim("one", "one is good", _broken)
    with pytest.raises(SystemExit) as ended:
        page_of(tmp_path, "--quick")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "claims.json is damaged" in said and "no second core" not in said


@pytest.mark.parametrize("option", ["--output", "--docs", "--device-model"])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_measured(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    claims["one"] = Claim("one", "one is good", _broken)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        command.main(["--quick", "--output", str(tmp_path), option, str(tmp_path / "file" / "below")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "file" / "below") in said and "no second core" not in said


def test_an_interrupted_run_says_where_it_continues(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(bench: Bench, scale: Scale) -> Measured:
        raise KeyboardInterrupt

    claims["two"] = Claim("two", "two is good", interrupted)
    assert command.main(["--quick", "--json", "--output", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert f"kept in {tmp_path}: the same command continues" in err


def test_a_source_that_changed_meanwhile_is_said(
    claims: dict[str, Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def changing(bench: Bench, scale: Scale) -> Measured:
        bench.sources = {"training": {"before", "after"}}
        return Measured([HELD])

    claims["one"] = Claim("one", "one is good", changing)
    assert "more than one state" in page_of(tmp_path, "--quick")
    assert "source changed meanwhile" in capsys.readouterr().err


def test_the_stacks_claims_are_those_of_the_design() -> None:
    assert list(CLAIMS) == [
        "sparse-moe",
        "sharing",
        "distillation",
        "curriculum",
        "padding",
        "recompute",
        "eight-bit",
        "placement",
        "parallelism",
        "growth",
        "billing",
        "autoscaling",
    ]
