"""Output of the commands: tables for people, one JSON document for programs, errors in one line.

With `--json`, standard output has exactly one document: the result, or `{"error": {"code", "message"}}`.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
errors = Console(stderr=True)


class CliError(Exception):
    """The command failed. `code` is for programs; the message says what to do."""

    def __init__(self, message: str, *, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_error(message: str, *, code: str, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"code": code, "message": message}})
    else:
        errors.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line of progress on standard error."""
    errors.print(escape(text), highlight=False, soft_wrap=True)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()
) -> None:
    """Print rows as a table, or that there are none; columns named in `right` are right-aligned."""
    rows = list(rows)
    if not rows:
        console.print(f"{title}: none", highlight=False)
        return
    grid = Table(title=title, title_justify="left")
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console.print(grid)


def credits_text(microcredits: int) -> str:
    """Micro-credits as credits with up to six decimals, exact."""
    whole, part = divmod(abs(microcredits), 1_000_000)
    digits = f"{part:06d}".rstrip("0")
    return f"{'-' if microcredits < 0 else ''}{whole}{'.' if digits else ''}{digits}"


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
