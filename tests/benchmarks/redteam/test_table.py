"""The red team's table: what counts as expected, what the totals say. Pure, nothing is judged here."""

from pathlib import Path

import pytest

from benchmarks.redteam import __main__ as command
from benchmarks.redteam.attempt import Attempt
from benchmarks.redteam.judging import Outcome
from benchmarks.redteam.naive import Control
from benchmarks.redteam.patch_file import RedTeamPatch
from benchmarks.redteam.table import REASON_CHARACTERS, row_of, rows_of


def patch(
    name: str = "by-id", *, is_cheat: bool = True, expect: frozenset[str] | None = None
) -> RedTeamPatch:
    return RedTeamPatch(
        path=Path(f"07-{name}.diff"),
        name=name,
        number=7,
        is_cheat=is_cheat,
        group="5 caching" if is_cheat else "honest faster",
        suite="moe_forward",
        preset="tiny",
        naive="same_inputs" if is_cheat else "",
        wins_by="words",
        expect=expect or frozenset({"no_gain"} if is_cheat else {"gain"}),
        seam="words",
        why="words",
        base="",
        old="",
        paid_log_ppm=0,
        header=b"",
        diff=b"",
    )


def outcome(verdict: str, *, awarded: bool = False, reason: str = "a reason") -> Outcome:
    return Outcome(verdict, reason, awarded, 6, 12.34, -1_000)


WON, LOST = Control("same_inputs", 153.0, ""), Control("same_inputs", 1.5, "refused: None")


def test_a_cheat_is_as_expected_when_refused_and_its_control_was_won() -> None:
    assert Attempt(patch(), WON, outcome("no_gain")).is_as_expected
    assert not Attempt(patch(), LOST, outcome("no_gain")).is_as_expected
    assert not Attempt(patch(), WON, outcome("regression")).is_as_expected


def test_a_cheat_that_is_awarded_is_never_as_expected() -> None:
    assert not Attempt(patch(), WON, outcome("gain", awarded=True)).is_as_expected
    assert not Attempt(patch(), WON, outcome("no_gain", awarded=True)).is_as_expected


def test_an_honest_patch_may_be_awarded() -> None:
    honest = patch("dispatch", is_cheat=False)
    assert Attempt(honest, None, outcome("gain", awarded=True)).is_as_expected
    assert not Attempt(honest, None, outcome("suspicious")).is_as_expected


@pytest.mark.parametrize(
    ("verdict", "is_refused"),
    [
        ("wrong_output", True),
        ("policy_violation", True),
        ("suspicious", True),
        ("patch_rejected", True),
        ("no_gain", False),
        ("regression", False),
        ("gain", False),
        ("timeout", False),
    ],
)
def test_refused_means_refused_as_cheating(verdict: str, is_refused: bool) -> None:
    assert outcome(verdict).is_refused == is_refused


def test_a_row_says_verdict_control_reason_and_time() -> None:
    row = row_of(Attempt(patch(), WON, outcome("no_gain")))
    assert (row.name, row.value, row.holds) == ("cheat 07 by-id (5 caching)", "no_gain", True)
    assert row.target == "no_gain; control >= 2x"
    for words in ("153x in same_inputs", "not refused", "6 pairs", "12.3 s", "a reason"):
        assert words in row.how


def test_a_failed_control_is_shown_with_its_reason() -> None:
    row = row_of(Attempt(patch(), LOST, outcome("no_gain")))
    assert row.holds is False
    assert "CONTROL FAILED: 1.5x in same_inputs (refused: None)" in row.how


def test_long_reasons_are_cut_and_tracebacks_end_with_their_error() -> None:
    long = row_of(Attempt(patch(), WON, outcome("no_gain", reason="word " * 100)))
    assert len(long.how) < REASON_CHARACTERS + 100
    traced = row_of(
        Attempt(patch(), WON, outcome("no_gain", reason="Traceback (most ...)\n  x\nKeyError: 'y'\n"))
    )
    assert traced.how.endswith("; KeyError: 'y'")


def test_totals_count_what_went_wrong_and_name_it() -> None:
    attempts = [
        Attempt(patch("caught"), WON, outcome("no_gain")),
        Attempt(patch("through"), WON, outcome("gain", awarded=True)),
        Attempt(patch("weak"), LOST, outcome("no_gain")),
        Attempt(patch("good", is_cheat=False), None, outcome("gain", awarded=True)),
        Attempt(patch("blamed", is_cheat=False), None, outcome("suspicious")),
    ]
    totals = {row.name: row for row in rows_of(attempts)[:4]}
    awarded = totals["cheats awarded"]
    assert (awarded.value, awarded.unit, awarded.holds, awarded.how) == (1, "of 3", False, "through")
    weak = totals["cheats whose control failed"]
    assert (weak.value, weak.holds) == (1, False)
    assert weak.how.startswith("weak; ")
    refused = totals["honest patches refused"]
    assert (refused.value, refused.unit, refused.how) == (1, "of 2", "blamed")
    assert totals["patches with another outcome than expected"].value == 3
    assert len(rows_of(attempts)) == 4 + 5


def test_totals_hold_when_all_went_well() -> None:
    attempts = [
        Attempt(patch(), WON, outcome("no_gain")),
        Attempt(patch("good", is_cheat=False), None, outcome("gain", awarded=True)),
    ]
    assert all(row.holds for row in rows_of(attempts))


def test_an_unknown_name_is_an_error_before_anything_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["no-such-patch"])
    assert exit_.value.code == 2
    assert "no patch no-such-patch" in capsys.readouterr().err
