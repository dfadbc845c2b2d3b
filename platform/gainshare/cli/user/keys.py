"""`gainshare keys`: lists, makes and revokes your API keys."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

keys = typer.Typer(no_args_is_help=True, help="List, make and revoke API keys.")


@keys.command("list")
def list_keys(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List your keys. Their secrets cannot be shown again."""
    found = site(url, key).get("keys/")["results"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row["prefix"],
            row["name"],
            " ".join(row["scopes"]),
            row["expires_at"],
            row["revoked_at"],
            row["last_used_at"],
        )
        for row in found
    ]
    table("API keys", ("prefix", "name", "scopes", "expires", "revoked", "last used"), rows)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for, e.g. laptop.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help="inference, submit, read or maintain; repeatable.")
    ],
    expires: Annotated[str, typer.Option("--expires", help="Expiry, e.g. 2027-01-31 (UTC).")] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once."""
    body = {"name": name, "scopes": scope, "expires_at": _time(expires) if expires else None}
    made = site(url, key).post("keys/", body)
    if as_json:
        print_json(made)
        return
    console.print(made["key"], highlight=False, markup=False, soft_wrap=True)
    typer.echo("Store it now: it cannot be shown again.", err=True)


@keys.command("revoke")
def revoke_key(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, from `gainshare keys list`.")],
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Revoke a key, and every key made with it, at once."""
    site(url, key).delete(f"keys/{prefix}/")
    if as_json:
        print_json({"revoked": prefix})
    else:
        console.print(f"revoked {prefix}", highlight=False)


def _time(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{text!r} is not a date: write it as 2027-01-31 or 2027-01-31T12:00", code="usage"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat()
