"""`gainshare dispute` disputes the verdict of your own submission; `gainshare disputes` lists disputes."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

SHOWN = 50


def dispute(
    submission: Annotated[str, typer.Argument(help="Id of your submission.")],
    text: Annotated[str, typer.Option("--text", help="What is wrong with its verdict.")],
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Dispute the verdict of your submission; a maintainer answers."""
    if not text.strip():
        raise CliError("--text is empty: write what is wrong with the verdict", code="usage")
    made = site(url, key).post(f"submissions/{submission}/dispute/", {"text": text})
    if as_json:
        print_json(made)
        return
    console.print(f"dispute {made['id']} of {made['verdict_kind']}: {made['state']}", highlight=False)
    console.print("see the answer with `gainshare disputes --mine`", highlight=False)


def disputes(
    mine: Annotated[bool, typer.Option("--mine", help="Only your own.")] = False,
    state: Annotated[str, typer.Option("--state", help="open, upheld, remeasured or overturned.")] = "",
    submission: Annotated[str, typer.Option("--submission", help="Only of this submission.")] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List disputes and their answers, the newest first."""
    query: dict[str, str | int] = {"limit": SHOWN}
    query |= {"author": "me"} if mine else {}
    query |= {name: value for name, value in (("state", state), ("submission", submission)) if value}
    found = site(url, key).get("disputes/", **query)
    if as_json:
        print_json(found)
        return
    columns = ("dispute", "submission", "by", "verdict", "says", "state", "answer")
    table("Disputes", columns, [_row(row) for row in found["results"]])
    if found["count"] > len(found["results"]):
        console.print(f"{found['count']} in all; --json and REST have the rest", highlight=False)


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    answered = row["answered_by"]
    return (
        row["id"],
        row["submission"],
        row["author"],
        row["verdict_kind"],
        row["text"],
        row["state"],
        f"{answered}: {row['answer']}" if answered else "",
    )
