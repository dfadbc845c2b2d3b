"""`docs/lab/claims.md` and its plots, from what was measured of each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.claims.claim import Claim, Figure
from benchmarks.claims.record import Entry, read_record, shown, write_record
from benchmarks.claims.scale import Scale
from benchmarks.line_chart import Line, Panel, draw
from benchmarks.report import Row, short

DOCUMENT = "claims.md"
FIGURES = "figures"
RECORD = "claims.json"  # in the folder of the plots


def write_document(folder: Path, claims: Sequence[Claim], entries: Mapping[str, Entry]) -> Path:
    """Adds `entries` to what the folder's record has of earlier runs, and writes page and plots again; returns the page.

    Raises RecordError for a damaged record and OSError.
    """
    record = read_record(record_file(folder))
    for name, entry in entries.items():
        record[name] = {**record.get(name, {}), entry.scale: entry}
    write_record(record_file(folder), record)
    measured = {claim: shown(record.get(claim.name, {})) for claim in claims}
    parts = [_head([entry for entry in measured.values() if entry is not None])]
    for claim, of_claim in measured.items():
        parts += _section(folder, claim, of_claim)
    page = folder / DOCUMENT
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def record_file(folder: Path) -> Path:
    return folder / FIGURES / RECORD


def _head(entries: Sequence[Entry]) -> str:
    rows = [row for entry in entries for row in entry.measured.rows]
    held, missed = sum(row.holds is True for row in rows), sum(row.holds is False for row in rows)
    return (
        "# The stack's claims, measured\n\n"
        f"Written by `python -m benchmarks.claims --docs docs/lab` from `{FIGURES}/{RECORD}`, which keeps the newest run of each "
        "claim; do not edit it by hand. "
        f"{held} figures meet their target, {missed} miss it, the others have none or could not be measured. "
        "A missed target is reported with what was measured; nothing was left out.\n\n"
        "`--quick` trains models of up to half a million parameters for some hundred steps, to see that all is measured; "
        "`--full` models of up to two million for about a thousand. Neither says what a large model would do."
    )


def _section(folder: Path, claim: Claim, entry: Entry | None) -> list[str]:
    title = f"## {claim.name}\n\n{claim.says}."
    if entry is None:
        return [f"{title}\n\nNot measured yet: `python -m benchmarks.claims --docs docs/lab {claim.name}`."]
    scale: dict[Scale, str] = {"full": "Full scale", "quick": "Quick scale"}
    changed = " The code changed meanwhile: these figures come from more than one state of it."
    parts = [
        f"{title}\n\n{scale[entry.scale]}, {entry.date[:10]}, commit {short(entry.commit)}, {entry.machine}: "
        f"`{entry.command}`.{changed if entry.has_changed else ''}",
        _table(entry.measured.rows),
    ]
    for number, figure in enumerate(entry.measured.figures):
        name = f"claims-{claim.name}{f'-{number}' if number else ''}.svg"
        if _draw(folder / FIGURES / name, figure):
            parts.append(f"![{figure.title}]({FIGURES}/{name})")
    return parts


def _table(rows: Sequence[Row]) -> str:
    lines = ["| figure | value | target | holds | how |", "|---|---|---|---|---|"]
    marks = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        cells = (
            row.name,
            row.figure,
            row.target or "",
            marks[row.holds],
            row.how,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _draw(file: Path, figure: Figure) -> bool:
    """Draw the plots; False where there was nothing to draw."""
    lines = [Line(curve.name, curve.xs, curve.ys, has_markers=True) for curve in figure.curves if curve.xs]
    if not lines:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    panel = Panel(figure.y_name, lines)
    text = draw(figure.title, [panel], x_name=figure.x_name, is_x_log=figure.is_x_log)
    file.write_text(text, encoding="utf-8")
    return True
