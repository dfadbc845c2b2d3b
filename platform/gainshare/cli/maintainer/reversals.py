"""`gainshare reversals`: branches that took a merged gain back, or have it again, and a maintainer's answers."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

SHOWN = 50

reversals = typer.Typer(help="Branches that took a merged gain back (maintainers).", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="The question's id, from `gainshare reversals list`.")]
TextOption = Annotated[str, typer.Option("--text", help="Your reason; the author reads it.")]


@reversals.command("list")
def list_reversals(
    state: Annotated[str, typer.Option("--state", help="open, confirmed, dismissed or ended.")] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the questions and their answers, the newest first."""
    query: dict[str, str | int] = {"limit": SHOWN} | ({"state": state} if state else {})
    found = site(url, key).get("reversals/", **query)
    if as_json:
        print_json(found)
        return
    columns = ("question", "lineage", "asks for", "commit", "submission", "state", "answer")
    table("Branches that took a gain back", columns, [_row(row) for row in found["results"]])
    if found["count"] > len(found["results"]):
        console.print(f"{found['count']} in all; --json and REST have the rest", highlight=False)


@reversals.command()
def confirm(
    question: IdArgument,
    text: TextOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take the award back; or pay it again, where the branch has the code again."""
    _answer(question, "confirmed", text, url, key, as_json)


@reversals.command()
def dismiss(
    question: IdArgument,
    text: TextOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Leave the award as it is. The branch is followed as any push."""
    _answer(question, "dismissed", text, url, key, as_json)


def _answer(question: str, answer: str, text: str, url: str, key: str, as_json: bool) -> None:
    if not text.strip():
        raise CliError("--text is empty: write the reason, which the author reads", code="usage")
    made = site(url, key).post(f"reversals/{question}/answer/", {"answer": answer, "text": text})
    if as_json:
        print_json(made)
        return
    console.print(f"{made['kind']} of submission {made['submission']}: {made['state']}", highlight=False)


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    answered = row["answered_by"]
    return (
        row["id"],
        row["lineage"],
        row["kind"],
        row["commit"][:12],
        row["submission"],
        row["state"],
        f"{answered}: {row['answer']}" if answered else "",
    )
