"""`docs/claims.md` and its plots, from a report. Knows nothing of how figures were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.claims.claim import Claim, Figure
from benchmarks.claims.scale import Scale
from benchmarks.report import Report, Row, shown
from model.training.line_chart import Line, Panel, draw

DOCUMENT = "claims.md"
FIGURES = "figures"


def write_document(
    folder: Path,
    report: Report,
    rows: Mapping[Claim, Sequence[Row]],
    figures: Mapping[Claim, Sequence[Figure]],
    *,
    scale: Scale,
    has_changed: bool,
) -> Path:
    """Writes the page and an SVG file for each plot; returns the page. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_head(report, rows, scale, has_changed=has_changed)]
    for claim, of_claim in rows.items():
        parts.append(f"## {claim.name}\n\n{claim.says}.\n\n{_table(of_claim)}")
        for number, figure in enumerate(figures.get(claim, ())):
            name = f"claims-{claim.name}{f'-{number}' if number else ''}.svg"
            if _draw(folder / FIGURES / name, figure):
                parts.append(f"![{figure.title}]({FIGURES}/{name})")
    page = folder / DOCUMENT
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _head(report: Report, rows: Mapping[Claim, Sequence[Row]], scale: Scale, *, has_changed: bool) -> str:
    every = [row for of_claim in rows.values() for row in of_claim]
    held, missed = sum(row.holds is True for row in every), sum(row.holds is False for row in every)
    small = (
        "These are figures of the quick scale: models of some ten to hundred thousand parameters and a few hundred "
        "steps, to see that all is measured. `--full` measures larger ones over more seeds.\n\n"
        if scale == "quick"
        else ""
    )
    changed = (
        "The stack's source changed while this was measured: the figures come from more than one state of it.\n\n"
        if has_changed
        else ""
    )
    return (
        "# The stack's claims, measured\n\n"
        f"Written by `{report.command}`; do not edit it by hand. {report.date}, commit {(report.commit or 'none')[:12]}, "
        f"{report.machine}.\n\n{small}{changed}"
        f"{held} figures meet their target, {missed} miss it, the others have none or could not be measured here. "
        "A missed target is reported with what was measured; nothing was left out."
    )


def _table(rows: Sequence[Row]) -> str:
    lines = ["| figure | value | target | holds | how |", "|---|---|---|---|---|"]
    marks = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        cells = (
            row.name,
            "-" if row.value is None else f"{shown(row.value)} {row.unit}".strip(),
            row.target or "",
            marks[row.holds],
            row.how,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _draw(file: Path, figure: Figure) -> bool:
    """Whether there was anything to draw."""
    lines = [Line(curve.name, curve.xs, curve.ys, has_markers=True) for curve in figure.curves if curve.xs]
    if not lines:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    panel = Panel(figure.y_name, lines)
    file.write_text(draw(figure.title, [panel], x_name=figure.x_name), encoding="utf-8")
    return True
