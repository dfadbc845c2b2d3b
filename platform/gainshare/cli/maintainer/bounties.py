"""`gainshare bounties`: lists bounties with their numbers."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import JsonOption, credits_text, print_json, table

SHOWN = 200


def bounties(
    state: Annotated[
        str, typer.Option("--state", help="Only those that are open, exhausted or closed.")
    ] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List bounties, the newest first. `gainshare submit` takes the number."""
    query = {"state": state} if state else {}
    found = site(url, key).get("bounties/", limit=SHOWN, **query)["results"]
    if as_json:
        print_json(found)
        return
    columns = ("number", "title", "suite", "hardware", "lineage", "pays", "state")
    table("Bounties", columns, [_row(bounty) for bounty in found])


def _row(bounty: dict[str, Any]) -> tuple[str, ...]:
    fixed = bounty["award_microcredits"]
    pays = (
        f"{credits_text(bounty['rate_microcredits_per_nat'])} a nat"
        if fixed is None
        else f"{credits_text(fixed)} for the bug"
    )
    shown = ("number", "title", "suite", "hardware", "lineage")
    return (*(str(bounty[name]) for name in shown), pays, bounty["state"])
