"""`gainshare stop`: the emergency stop of judging, awards and merges."""

from typing import Annotated

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, print_json, table


def stop(
    what: Annotated[
        list[str] | None, typer.Argument(help="judging, awards or merges, one or more; all three by default.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, shown on every page.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Lift the stop instead.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show what is stopped.")] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stop judging, awards or merges at once, or lift the stop. Stopped work waits and continues automatically."""
    where = site(url, key)
    known = [row["name"] for row in where.get("switches/")]
    wanted = what or known
    if unknown := [name for name in wanted if name not in known]:
        raise CliError(f"{unknown[0]!r} cannot be stopped: choose from {', '.join(known)}", code="usage")
    if status and (lift or reason):
        raise CliError("--status only shows the switches: leave out --lift and --reason", code="usage")
    if not status:
        if not lift and not reason.strip():
            raise CliError("give a reason with --reason: it is shown on every page", code="usage")
        for name in wanted:
            where.post(f"switches/{name}/{'lift' if lift else 'stop'}/", {"reason": reason})
    rows = [row for row in where.get("switches/") if row["name"] in wanted]
    if as_json:
        print_json(rows)
        return
    table(
        "Emergency stop",
        ("switch", "state", "by", "since", "reason"),
        [
            (
                row["name"],
                "stopped" if row["is_stopped"] else "running",
                row["actor"],
                row["changed_at"],
                row["reason"],
            )
            for row in rows
        ],
    )
