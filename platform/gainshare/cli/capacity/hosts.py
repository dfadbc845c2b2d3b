"""`gainshare hosts`: registers the machines whose agents run model nodes, and takes them out (maintainers)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, table
from gainshare.local.secrets import write_secret

hosts = typer.Typer(
    no_args_is_help=True, help="Register hosts of model nodes; renew and revoke their tokens."
)

NameArgument = Annotated[str, typer.Argument(help="The host's name, from `gainshare hosts list`.")]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", help="Write the token into this file, for this user only, instead of showing it."
    ),
]


@hosts.command("add")
def add_host(
    name: Annotated[str, typer.Argument(help="A name for the host: letters, digits, - and _.")],
    device_class: Annotated[str, typer.Option("--class", help="Class of its devices, as cpu-small or h100.")],
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="A device serves or judges, never both; it may be lent.")
    ] = False,
    address: Annotated[
        str,
        typer.Option(
            "--address", help="Where the gateway reaches its nodes; else where its agent speaks from."
        ),
    ] = "",
    token_file: TokenFileOption = None,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Register a host and print the token of its agent, which is shown only here."""
    body = {"name": name, "device_class": device_class, "is_exclusive": exclusive, "address": address}
    _require_writable(token_file)
    _show_token(site(url, key).post("capacity/hosts/", body), token_file, as_json)


@hosts.command("renew")
def renew_host(
    name: NameArgument,
    token_file: TokenFileOption = None,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give a host a new token: the old one opens nothing any more, and the host may speak from another address."""
    _require_writable(token_file)
    _show_token(site(url, key).post(f"capacity/hosts/{name}/renew/"), token_file, as_json)


@hosts.command("list")
def list_hosts(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List every host with its class, its devices and when its agent was seen."""
    found = site(url, key).get("capacity/hosts/")["results"]
    if as_json:
        print_json(found)
        return
    columns = ("name", "class", "devices", "address", "last seen", "leaves", "revoked", "problem")
    rows = [
        (
            *(row["name"], row["device_class"], row["n_devices"], row["address"] or row["allowed_address"]),
            *(row["last_seen_at"], row["leaves_at"], row["revoked_at"], row["problem"]),
        )
        for row in found
    ]
    table("Hosts", columns, rows, right=("devices",))


@hosts.command("revoke")
def revoke_host(
    name: NameArgument,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded with the host.")],
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a host out of the pool for good: its token opens nothing, and nothing is sent to its nodes."""
    _show(site(url, key).post(f"capacity/hosts/{name}/revoke/", {"reason": reason}), as_json)


@hosts.command("leaves")
def announce_departure(
    name: NameArgument,
    in_s: Annotated[
        int, typer.Option("--in-s", min=0, max=86_400, help="Seconds until it is taken away.")
    ] = 120,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Announce that a host is taken away soon: it gets nothing new, and its nodes drain in time."""
    _show(site(url, key).post(f"capacity/hosts/{name}/departure/", {"in_s": in_s}), as_json)


@hosts.command("stays")
def withdraw_departure(
    name: NameArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False
) -> None:
    """Withdraw the notice that a host is taken away."""
    _show(site(url, key).delete(f"capacity/hosts/{name}/departure/"), as_json)


def _require_writable(token_file: Path | None) -> None:
    """Raises CliError before a token is made that could not be kept."""
    if token_file is not None and not token_file.parent.is_dir():
        raise CliError(f"{token_file.parent} is no folder: make it first, because a token is shown only once")


def _show_token(made: dict[str, Any], token_file: Path | None, as_json: bool) -> None:
    token = made["token"]
    if token_file is not None:
        write_secret(token_file, token)
        made = {**made, "token": "", "token_file": str(token_file)}
    if as_json:
        print_json(made)
        return
    where = f"in {token_file}" if token_file is not None else token
    lines = (f"host   {made['name']} ({made['device_class']})", f"token  {where}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(seen: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(seen)
        return
    parts = [f"{seen['name']} ({seen['device_class']})"]
    parts += [f"leaves at {seen['leaves_at']}"] if seen["leaves_at"] else []
    parts += [f"was revoked at {seen['revoked_at']}"] if seen["revoked_at"] else []
    console.print(", ".join(parts), highlight=False, markup=False, soft_wrap=True)
