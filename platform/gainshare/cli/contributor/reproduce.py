"""`gainshare reproduce`: submits a reproduction to a bug bounty."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, Site, UrlOption, site
from gainshare.cli.contributor.submission import POLL_S
from gainshare.cli.output import CliError, JsonOption, console, print_json


def reproduce(
    bounty: Annotated[str, typer.Argument(help="Number of the bug's bounty, such as B12, or its id.")],
    file: Annotated[Path, typer.Argument(help="A Python file with the functions observe and check.")],
    watch_it: Annotated[bool, typer.Option("--watch", help="Wait for its verdict.")] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Submit a reproduction of a bug; the first one that shows the bug earns a share of the award.

    Try it on your own machine first: gainshare bench --kind reproduction --reproduction FILE.
    """
    where = site(url, key)
    made: dict[str, Any] = where.post("reproductions/", {"bounty": bounty, "text": _read(file)})
    if watch_it:
        made = _watch(where, made["id"])
    if as_json:
        print_json(made)
        return
    console.print(f"reproduction {made['id']}: {describe(made)}", highlight=False, soft_wrap=True)


def describe(reproduction: dict[str, Any]) -> str:
    """State, and the verdict with its reason when there is one."""
    verdict = reproduction["verdict"]
    return str(reproduction["state"]) + (f", {verdict['kind']}: {verdict['reason']}" if verdict else "")


def _watch(where: Site, reproduction: str) -> dict[str, Any]:
    seen: dict[str, Any] = where.get(f"reproductions/{reproduction}/")
    while seen["state"] == "queued":
        time.sleep(POLL_S)
        seen = where.get(f"reproductions/{reproduction}/")
    return seen


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}", code="unreadable") from None
    except UnicodeDecodeError:
        raise CliError(f"{file} is not text: a reproduction is a Python file", code="binary") from None
