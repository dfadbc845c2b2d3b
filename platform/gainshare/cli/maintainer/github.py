"""`gainshare github connect`, `status` and `bind`: the GitHub App through which pull requests are judged."""

import html
import json
import os
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from gainshare.cli.client import KeyOption, Site, UrlOption, site
from gainshare.cli.contributor.submission import POLL_S
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

github = typer.Typer(no_args_is_help=True, help="Connect the site with GitHub, and see what is missing.")
MICROCREDITS = 1_000_000
CHECKED_WITHIN_S = 120.0
TIMEOUT_S = 30.0
FILES = {"pem": "private-key.pem", "webhook_secret": "webhook-secret", "client_secret": "client-secret"}


@github.command()
def connect(
    name: Annotated[str, typer.Option("--name", help="Name of the App, free at GitHub.")] = "",
    organization: Annotated[
        str, typer.Option("--organization", help="Organization that is to own the App; else you do.")
    ] = "",
    page: Annotated[
        Path | None, typer.Option("--page", help="Write a page here that makes the App when you open it.")
    ] = None,
    code: Annotated[
        str, typer.Option("--code", help="The code that GitHub answered with, in the address after `code=`.")
    ] = "",
    into: Annotated[
        Path | None, typer.Option("--into", help="With --code: folder for the App's key and secrets.")
    ] = None,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print the App's manifest and how to make an App of it (maintainers), and say what is missing.

    Without options this changes nothing, here or at GitHub.
    """
    where = site(url, key)
    wanted = where.get("github/manifest/", name=name)
    if code:
        _take_secrets(wanted["api_url"], code, into, as_json=as_json)
        return
    form_url = wanted["form_url"]
    if organization:
        form_url = form_url.replace("/settings/", f"/organizations/{organization}/settings/")
    if page is not None:
        page.write_text(_page(form_url, wanted["manifest"]))
    seen = where.get("github/")
    if as_json:
        print_json(
            {**wanted, "form_url": form_url, "missing": seen["missing"], "is_polling": seen["is_polling"]}
        )
        return
    _say(json.dumps(wanted["manifest"], indent=2))
    _say("")
    for step in _steps(form_url, page, is_polling=seen["is_polling"]):
        _say(step)
    _say("")
    _say_missing(seen["missing"])


@github.command()
def status(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Ask GitHub about the App, its installations and repositories, and say what is missing (maintainers).

    Exit status 1 if anything is missing.
    """
    where = site(url, key)
    before = where.get("github/")
    can_ask = not any(
        "GITHUB_APP_ID" in text or "PRIVATE_KEY is not set" in text for text in before["missing"]
    )
    seen = _checked(where, before) if can_ask else before
    if as_json:
        print_json(seen)
    else:
        _show(seen)
    if seen["missing"]:
        raise typer.Exit(1)


@github.command()
def bind(
    lineage: Annotated[str, typer.Argument(help="The lineage's name.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME of a repository that the App sees.")],
    branch: Annotated[str, typer.Option("--branch", help="The branch to follow.")] = "main",
    folder: Annotated[
        str, typer.Option("--folder", help="The folder that is the lineage's model/.")
    ] = "model",
    daily: Annotated[
        str, typer.Option("--daily", help="Credits that comments in its pull requests can spend in a day.")
    ] = "0",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Connect a lineage to a repository, whose pull requests are then judged (maintainers)."""
    where = site(url, key)
    seen = where.get("github/")
    found = [
        one["github_id"]
        for row in seen["installations"]
        for one in row["repositories"]
        if row["state"] == "active" and one["full_name"].lower() == repository.lower()
    ]
    if not found:
        raise CliError(
            f"the App does not see {repository}: install it there, then run `gainshare github status`",
            code="not_seen",
        )
    wanted = {
        "github_id": found[0],
        "branch": branch,
        "folder": folder,
        "daily_microcredits": microcredits(daily),
    }
    bound = where.post(f"lineages/{lineage}/repository/connect/", wanted)
    if as_json:
        print_json(bound)
        return
    _say(f"pull requests of {bound['github']} to {bound['branch']} are judged for {lineage}")


def microcredits(text: str) -> int:
    """Credits as they are written -> micro-credits. Raises CliError."""
    try:
        amount = Decimal(text) * MICROCREDITS
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value():
        raise CliError(f"{text} is not a number of credits: write it like 2.5", code="usage")
    return int(amount)


def _checked(where: Site, before: dict[str, Any]) -> dict[str, Any]:
    """The connection after the next check. Raises CliError if none is made for long."""
    where.post("github/check/")
    deadline = time.monotonic() + CHECKED_WITHIN_S
    while time.monotonic() < deadline:
        seen: dict[str, Any] = where.get("github/")
        if seen["checked_at"] != before["checked_at"]:
            return seen
        time.sleep(POLL_S)
    raise CliError("the site did not ask GitHub: check that its control worker runs", code="timeout")


def _steps(form_url: str, page: Path | None, *, is_polling: bool) -> list[str]:
    opened = (
        f"open {page} in a browser" if page else "run this again with --page FILE, and open FILE in a browser"
    )
    events = (
        "GitHub cannot reach this site's address, so the App gets no webhook and the site polls. Set GAINSHARE_URL to a "
        "public address before you make the App if you want events at once."
        if is_polling
        else "GitHub will send events to this site."
    )
    return [
        f"1. Make the App: {opened}. It posts the manifest above to {form_url}.",
        "   GitHub asks once, and then leads back to this site with ?code=... in the address.",
        "2. Within an hour: gainshare github connect --code CODE --into FOLDER",
        "   writes the App's key and secrets there, and prints the variables that name them. Set these for the site's",
        "   web and control processes, and start them again.",
        "3. Install the App, from its page on GitHub, for the repositories whose pull requests are to be judged.",
        "4. See what the App sees: gainshare github status",
        "5. Connect a lineage: gainshare github bind LINEAGE OWNER/NAME --branch main --folder model",
        events,
    ]


def _page(form_url: str, manifest: dict[str, Any]) -> str:
    """A page with one button, which posts the manifest to GitHub."""
    value = html.escape(json.dumps(manifest))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Make the GitHub App</title>\n'
        f'<form method="post" action="{html.escape(form_url)}">\n'
        f'<input type="hidden" name="manifest" value="{value}">\n'
        f"<p>This makes the GitHub App {html.escape(manifest['name'])}, which has no access until it is installed.</p>\n"
        '<button type="submit">Make the App at GitHub</button>\n</form>\n</html>\n'
    )


def _take_secrets(api_url: str, code: str, into: Path | None, *, as_json: bool) -> None:
    """Exchange the code, write the secrets to files that only their owner can read, and print the variables."""
    if into is None:
        raise CliError("name a folder for the App's key and secrets: --into FOLDER", code="usage")
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = _exchanged(api_url, code)
    for field, name in FILES.items():
        if made.get(field):
            _write_secret(into / name, str(made[field]))
    folder = into.resolve()
    variables = {
        "GAINSHARE_GITHUB_APP_ID": str(made["id"]),
        "GAINSHARE_GITHUB_PRIVATE_KEY_FILE": str(folder / FILES["pem"]),
        "GAINSHARE_GITHUB_CLIENT_ID": str(made["client_id"]),
        "GAINSHARE_GITHUB_CLIENT_SECRET_FILE": str(folder / FILES["client_secret"]),
    }
    if made.get("webhook_secret"):
        variables["GAINSHARE_GITHUB_WEBHOOK_SECRET_FILE"] = str(folder / FILES["webhook_secret"])
    if as_json:
        print_json({"page": made["html_url"], "variables": variables})
        return
    for variable, value in variables.items():
        _say(f"{variable}={value}")
    _say(f"Set these for the site, start it again, and install the App: {made['html_url']}")


def _exchanged(api_url: str, code: str) -> dict[str, Any]:
    address = f"{api_url}/app-manifests/{quote(code, safe='')}/conversions"
    headers = {"Accept": "application/vnd.github+json", "User-Agent": "gainshare"}
    try:
        answer = httpx.post(address, headers=headers, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise CliError(f"{api_url} cannot be reached ({type(error).__name__})", code="unreachable") from None
    if answer.status_code != httpx.codes.CREATED:
        raise CliError(
            f"GitHub does not take this code (status {answer.status_code}): a code can be used once, within an hour. Make the "
            "App again, or take its key and secrets from its page on GitHub",
            code="bad_code",
        )
    made: dict[str, Any] = answer.json()
    return made


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text if text.endswith("\n") else f"{text}\n")


def _show(seen: dict[str, Any]) -> None:
    _say(f"GitHub: {seen['url']}; App: {seen['slug'] or 'none yet'} {seen['page']}".rstrip())
    _say(
        "events: the site polls, as GitHub cannot reach it"
        if seen["is_polling"]
        else "events: sent to the site"
    )
    rows = [
        (row["account"], row["state"], len(row["repositories"]), row["quiet_until"] or "")
        for row in seen["installations"]
    ]
    table("Installations", ("account", "state", "repositories", "waits until"), rows)
    repositories = [
        (
            one["full_name"],
            ", ".join(one["lineages"]),
            one["polled_at"] or "",
            one["events_missing_since"] or "",
        )
        for row in seen["installations"]
        for one in row["repositories"]
    ]
    table("Repositories", ("name", "lineages", "polled", "events missing since"), repositories)
    _say_missing(seen["missing"])


def _say_missing(missing: list[str]) -> None:
    if not missing:
        _say("Nothing is missing.")
    for text in missing:
        _say(f"missing: {text}")


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
