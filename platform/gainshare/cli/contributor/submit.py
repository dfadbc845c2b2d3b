"""`gainshare submit`: submits a diff to a bounty."""

from pathlib import Path
from typing import Annotated

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.contributor.submission import describe, watch
from gainshare.cli.output import CliError, JsonOption, console, print_json


def submit(
    bounty: Annotated[str, typer.Argument(help="The bounty's number, such as B12, or its id.")],
    diff: Annotated[Path, typer.Argument(help="A unified diff, or - for standard input.")],
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it until its verdict.")] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Submit a diff against the bounty's base tree and print the submission's id."""
    where = site(url, key)
    made = where.post("submissions/", {"bounty": bounty, "diff": _read(diff)})
    if watch_it:
        made = watch(where, made["id"], quiet=as_json)
    if as_json:
        print_json(made)
        return
    console.print(f"submission {made['id']}: {describe(made)}", highlight=False, soft_wrap=True)
    if not watch_it:
        console.print(f"follow it with `gainshare status {made['id']} --watch`", highlight=False)


def _read(diff: Path) -> str:
    try:
        data = typer.get_binary_stream("stdin").read() if str(diff) == "-" else diff.read_bytes()
        return data.decode()
    except OSError as error:
        raise CliError(f"{diff} cannot be read: {error.strerror}", code="unreadable") from None
    except UnicodeDecodeError:
        raise CliError(f"{diff} is not text: a submission is a unified diff", code="binary") from None
