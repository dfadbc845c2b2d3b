"""`gainshare lineages`: lists lineages, binds them to repositories, releases them, and renews those of an older layout."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.maintainer.repositories import bind, fetch, unbind
from gainshare.cli.output import JsonOption, console, print_json, table

lineages = typer.Typer(no_args_is_help=True, help="List lineages, bind them to repositories, renew them.")
lineages.command()(bind)
lineages.command()(unbind)
lineages.command()(fetch)
SHOWN = 200


@lineages.command("list")
def list_lineages(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List lineages with their tips, and whether they have to be renewed."""
    found = site(url, key).get("lineages/", limit=SHOWN)["results"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row["name"],
            row["tip"][:16],
            "renew it" if row["is_outdated"] else "present",
            _stopped(row),
            row["created_at"],
        )
        for row in found
    ]
    table("Lineages", ("name", "tip", "layout", "stopped", "since"), rows)


def _stopped(row: dict[str, Any]) -> str:
    if row["stop_reason"]:
        return "base fails"
    return "branch lost the tip" if row["merge_stop_reason"] else ""


@lineages.command("release")
def release(
    name: Annotated[str, typer.Argument(help="The lineage's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Why it can continue.")],
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Release a lineage whose base tree failed on its own, or whose branch lost the tip (maintainers)."""
    done = site(url, key).post(f"lineages/{name}/release/", {"reason": reason})
    if as_json:
        print_json(done)
        return
    then = (
        "the runs that waited are queued again" if done["evidence_digest"] else "merges that waited are done"
    )
    console.print(f"{name} is released; {then}", highlight=False, markup=False)


@lineages.command("renew")
def renew(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Begin lineages of an older layout again at the shipped tree (maintainers). Repeating changes nothing.

    Open submissions on older trees end without counting as an attempt, and their reservations return. Booked
    awards are unchanged.
    """
    done = site(url, key).post("lineages/renew/")
    if as_json:
        print_json(done)
        return
    for row in done["lineages"]:
        _print_lineage(row)
    if not done["lineages"]:
        console.print("every lineage has the present layout: nothing to do", highlight=False)
    if done["cancelled_calibrations"]:
        console.print(
            f"{done['cancelled_calibrations']} A/A runs on older trees were cancelled", highlight=False
        )


def _print_lineage(row: dict[str, Any]) -> None:
    is_moved = row["old_tip"] != row["tip"]
    tip = f"{row['old_tip'][:16]} -> {row['tip'][:16]}" if is_moved else f"{row['tip'][:16]}, as before"
    console.print(f"{row['lineage']}: tip {tip}", highlight=False, markup=False)
    for what, text in (
        ("ended", "ended without counting as an attempt, its reservation returned"),
        ("kept", "its run was cancelled, its award is unchanged"),
    ):
        for submission in row[what]:
            console.print(f"  submission {submission}: {text}", highlight=False)
    for reproduction in row["reproductions"]:
        console.print(f"  reproduction {reproduction}: cancelled, not counted", highlight=False)
