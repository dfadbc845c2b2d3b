"""`gainshare demo`: the command, its options and its exit status."""

import sys
from typing import Annotated

import typer

from benchmarks.commands import Terminated, answering_signals
from gainshare.cli.output import JsonOption, console, errors, print_json
from gainshare.cli.program import run_program
from gainshare.local.ports import free_port


def demo(
    port: Annotated[int, typer.Option(help="Port of the site; 0 chooses a free one.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    github: Annotated[
        bool,
        typer.Option(
            "--github", help="Play the story of a pull request instead, against a stand-in for GitHub."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the main job end to end on a fresh stack: six diffs, their verdicts, an award, and a paid answer.

    Exit status 0 only if every step had its expected outcome. The report is written to `.gainshare/demo.json`, that of
    --github to `.gainshare/demo-github.json`. Ended by a signal, the demo stops its stack first.
    """
    if github:
        if keep:
            raise typer.BadParameter(
                "the stand-in for GitHub ends with the demo: leave out --keep or --github"
            )
        raise typer.Exit(_of_a_pull_request(port=port, as_json=as_json))
    from gainshare.cli.demo.performance import (
        run_demo,
    )  # brings the openai client, which other commands do not need

    try:
        with answering_signals():
            record = run_demo(port=port or free_port(), keep=keep, console=errors if as_json else console)
    except Terminated as ended:
        raise typer.Exit(128 + ended.number) from None
    if as_json:
        print_json(record.as_json())
    else:
        console.print(
            f"{'Every step went as expected' if record.ok else 'NOT as expected'}: see .gainshare/demo.json"
        )
    if not record.ok:
        raise typer.Exit(1)


def _of_a_pull_request(*, port: int, as_json: bool) -> int:
    """Exit status of the story of a pull request. It is a program of its own, since no command imports bounty."""
    argv = [sys.executable, "-m", "bounty.github.demo", "--port", str(port), *(["--json"] if as_json else [])]
    return run_program(argv)
