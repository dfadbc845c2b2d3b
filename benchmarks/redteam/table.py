"""Results of the red team's attempts as rows of a report: totals first, then one row per patch."""

from collections.abc import Sequence

from benchmarks.redteam.attempt import Attempt
from benchmarks.redteam.naive import MINIMUM_RATIO
from benchmarks.report import Row
from benchmarks.statistics.units import signed_percent

REASON_CHARACTERS = 160


def rows_of(attempts: Sequence[Attempt]) -> list[Row]:
    """Totals over what was tried, then every patch in the order tried."""
    cheats = [attempt for attempt in attempts if attempt.patch.is_cheat]
    honest = [attempt for attempt in attempts if not attempt.patch.is_cheat]
    rows = []
    if cheats:
        awarded = [attempt for attempt in cheats if attempt.outcome.is_awarded]
        rows.append(_total("cheats awarded", len(awarded), len(cheats), "0", not awarded, awarded))
        failed = [attempt for attempt in cheats if attempt.control is not None and not attempt.control.is_won]
        how = "their refusal proves nothing"
        rows.append(
            _total(
                "cheats whose control failed",
                len(failed),
                len(cheats),
                "0",
                not failed,
                failed,
                how,
            )
        )
    if honest:
        refused = [attempt for attempt in honest if attempt.outcome.is_refused]
        rows.append(_total("honest patches refused", len(refused), len(honest), "0", not refused, refused))
    odd = [attempt for attempt in attempts if not attempt.is_as_expected]
    rows.append(
        _total("patches with another outcome than expected", len(odd), len(attempts), "0", not odd, odd)
    )
    return [*rows, *map(row_of, attempts)]


def row_of(attempt: Attempt) -> Row:
    """One patch: its verdict, what was expected, its control, the reason, the time it took."""
    patch, outcome, control = attempt.patch, attempt.outcome, attempt.control
    parts = []
    if control is not None:
        won = f"{control.ratio:.3g}x in {control.harness}"
        parts.append(won if control.is_won else f"CONTROL FAILED: {won} ({control.note})")
    parts.append("refused" if outcome.is_refused else "not refused")
    if outcome.log_ppm_estimate is not None:
        parts.append(f"{signed_percent(outcome.log_ppm_estimate)} over {outcome.pairs} pairs")
    parts.append(f"{outcome.seconds:.1f} s")
    parts.append(_short(outcome.reason))
    expected = " or ".join(sorted(patch.expect))
    return Row(
        name=f"{'cheat' if patch.is_cheat else 'honest'} {patch.number:02} {patch.name} ({patch.group})",
        value=outcome.verdict,
        unit="",
        target=f"{expected}; control >= {MINIMUM_RATIO:.0f}x" if patch.is_cheat else expected,
        holds=attempt.is_as_expected,
        how="; ".join(parts),
    )


def _total(
    name: str, count: int, of: int, target: str, holds: bool, which: Sequence[Attempt], how: str = ""
) -> Row:
    names = ", ".join(attempt.patch.name for attempt in which)
    return Row(
        name,
        count,
        f"of {of}",
        target,
        holds,
        "; ".join(part for part in (names, how if which else "") if part),
    )


def _short(reason: str) -> str:
    """The last line of a traceback, or the beginning of a sentence."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    text = lines[-1] if lines and lines[0].startswith("Traceback") else " ".join(lines)
    return text if len(text) <= REASON_CHARACTERS else text[:REASON_CHARACTERS] + "..."
