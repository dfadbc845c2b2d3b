"""`gainshare lineages bind`, `unbind` and `fetch`: the repository that a lineage is bound to."""

import time
from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, Site, UrlOption, site
from gainshare.cli.contributor.submission import POLL_S
from gainshare.cli.output import CliError, JsonOption, console, print_json

FETCHED_WITHIN_S = 300.0

NameArgument = Annotated[str, typer.Argument(help="The lineage's name.")]


def bind(
    name: NameArgument,
    repository: Annotated[
        str, typer.Option("--repository", help="OWNER/NAME at GitHub, or an https address.")
    ],
    branch: Annotated[str, typer.Option("--branch", help="The branch to follow.")] = "main",
    folder: Annotated[
        str, typer.Option("--folder", help="The folder that is the lineage's model/.")
    ] = "model",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Bind a lineage to a repository (maintainers): a push that changes the folder moves the lineage's tip."""
    wanted = {"repository": repository, "branch": branch, "folder": folder}
    bound = site(url, key).post(f"lineages/{name}/repository/", wanted)
    if as_json:
        print_json(bound)
        return
    _say(f"{name} is bound to {bound['url']}, branch {bound['branch']}, folder {bound['folder']}")
    _say(f"see what came of it with `gainshare lineages fetch {name}`")


def unbind(name: NameArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """End a lineage's binding to its repository (maintainers). The tip stays as it is."""
    site(url, key).delete(f"lineages/{name}/repository/")
    if as_json:
        print_json({"lineage": name})
        return
    _say(f"{name} is no longer bound to a repository")


def fetch(name: NameArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Fetch a lineage's repository now and say what came of it (maintainers)."""
    where = site(url, key)
    before = where.get(f"lineages/{name}/repository/")["checked_at"]
    where.post(f"lineages/{name}/repository/fetch/")
    seen = _awaited(where, name, before)
    if as_json:
        print_json(seen)
    elif refusal := seen["merge_stop_reason"] or seen["problem"]:
        raise CliError(f"the branch is not followed: {refusal}", code="not_followed")
    else:
        _say(f"{name} follows {seen['branch']} at {seen['commit'][:12]}; its tip is {seen['tip'][:16]}")


def _awaited(where: Site, name: str, before: str | None) -> dict[str, Any]:
    """The binding after its next fetch. Raises CliError if none is made for long."""
    deadline = time.monotonic() + FETCHED_WITHIN_S
    while time.monotonic() < deadline:
        seen: dict[str, Any] = where.get(f"lineages/{name}/repository/")
        if seen["checked_at"] != before:
            return seen
        time.sleep(POLL_S)
    raise CliError(
        "the site did not fetch the repository: check that its control worker runs", code="timeout"
    )


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
