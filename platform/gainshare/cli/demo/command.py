"""`gainshare demo`: the command, its options and its exit status."""

from typing import Annotated

import typer

from gainshare.cli.output import JsonOption, console, errors, print_json
from gainshare.local.ports import free_port


def demo(
    port: Annotated[int, typer.Option(help="Port of the site; 0 chooses a free one.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the main job end to end on a fresh stack: six diffs, their verdicts, an award, and a paid answer.

    Exit status 0 only if every step had its expected outcome. The report is written to `.gainshare/demo.json`.
    """
    from gainshare.cli.demo.performance import (
        run_demo,
    )  # brings the openai client, which other commands do not need

    record = run_demo(port=port or free_port(), keep=keep, console=errors if as_json else console)
    if as_json:
        print_json(record.as_json())
    else:
        console.print(
            f"{'Every step went as expected' if record.ok else 'NOT as expected'}: see .gainshare/demo.json"
        )
    if not record.ok:
        raise typer.Exit(1)
