"""`gainshare model`: fetches a model to serve, and lists those that are here."""

import subprocess
import sys
from typing import Annotated

import typer

from gainshare.cli.output import CliError, JsonOption, print_json, table
from gainshare.local.model_cache import BUILT_IN, FETCHED
from gainshare.local.paths import home_from_environment

model = typer.Typer(no_args_is_help=True, help="Fetch a model to serve, and list those that are here.")
ALIASES = {"smollm2": "smollm2-moe"}


@model.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2")] = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Download a model, check it and convert it. An interrupted download goes on where it stopped."""
    known = ALIASES.get(name, name)
    if known not in FETCHED:
        raise CliError(f"there is no model {name!r} to fetch: choose {', '.join(ALIASES)}", code="no_model")
    home = home_from_environment()
    argv = [sys.executable, "-m", *FETCHED[known], "--home", str(home.root), *(["--json"] if as_json else [])]
    if subprocess.run(argv, check=False).returncode != 0:
        raise typer.Exit(1)  # the program has said why


@model.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models that `gainshare up --model` takes, and which of them are here."""
    store = home_from_environment().root / "models"
    rows = [{"name": name, "is_here": True, "folder": None} for name in BUILT_IN]
    for name in FETCHED:
        folder = store / name
        is_here = (folder / "config.json").exists()
        rows.append({"name": name, "is_here": is_here, "folder": str(folder) if is_here else None})
    if as_json:
        print_json(rows)
    else:
        table(
            "Models",
            ("name", "here", "folder"),
            [(row["name"], "yes" if row["is_here"] else "no", row["folder"]) for row in rows],
        )
