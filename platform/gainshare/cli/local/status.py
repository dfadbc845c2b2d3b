"""`gainshare status`: shows the processes of the local stack, or one submission."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.contributor.submission import describe, watch
from gainshare.cli.local.quarantined import quarantined_runners
from gainshare.cli.output import JsonOption, console, print_json, table
from gainshare.local.disk import LOW_FREE_BYTES, free_space_problem
from gainshare.local.paths import home_from_environment
from gainshare.local.state import StackState, running_state


def status(
    submission: Annotated[str, typer.Argument(help="Id of a submission; the local stack by default.")] = "",
    follow: Annotated[
        bool, typer.Option("--watch", help="Follow the submission until it needs a person or has ended.")
    ] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show every process of the local stack, or the state, progress and verdict of a submission."""
    if submission:
        where = site(url, key)
        seen = watch(where, submission, quiet=as_json) if follow else where.get(f"submissions/{submission}/")
        if as_json:
            print_json(seen)
        else:
            _show_submission(seen)
        return
    home = home_from_environment()
    state = running_state(home)
    # Checked here too, because the supervisor cannot record its warning on a full disk.
    state.warning = free_space_problem(home, LOW_FREE_BYTES) or state.warning
    quarantined = quarantined_runners(state)
    if as_json:
        print_json({**state.to_json(), "quarantined": quarantined})
    else:
        _show_stack(state, quarantined)


def _show_stack(state: StackState, quarantined: list[str]) -> None:
    rows = [
        (name, row.state, row.pid, row.restarts, f"{state.files['logs']}/{name}.log", row.detail)
        for name, row in state.services.items()
    ]
    table(
        f"{state.url} is {state.phase}",
        ("process", "state", "pid", "restarts", "log", "detail"),
        rows,
        right=("pid", "restarts"),
    )
    sandbox = state.sandbox["level"] or f"none: {state.sandbox['problem']}"
    node = f", node confined by {state.sandbox['node']}" if state.sandbox.get("node") else ""
    console.print(
        f"supervisor pid {state.supervisor.pid}, model {state.model}, sandbox {sandbox}{node}",
        highlight=False,
    )
    for note in (state.detail, state.warning, *quarantined):
        if note:
            console.print(note, style="yellow", markup=False, soft_wrap=True)


def _show_submission(seen: dict[str, Any]) -> None:
    console.print(f"submission {seen['id']}: {describe(seen)}", highlight=False, markup=False, soft_wrap=True)
    runs = seen.get("runs") or []
    if runs:
        columns = ("run", "kind", "state", "attempt", "pairs done", "at most")
        rows = [
            (
                row["id"],
                row["kind"],
                row["state"],
                row.get("attempt"),
                row.get("pairs_done"),
                row.get("pairs_max"),
            )
            for row in runs
        ]
        table("Runs", columns, rows, right=("attempt", "pairs done", "at most"))
