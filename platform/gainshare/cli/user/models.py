"""`gainshare model`: fetches, converts, grows and lists models."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from gainshare.cli.output import CliError, JsonOption, print_json, table
from gainshare.local.model_cache import BUILT_IN, FETCHED
from gainshare.local.paths import home_from_environment

model = typer.Typer(no_args_is_help=True, help="Fetch, import, export, grow and list models.")
ALIASES = {"smollm2": "smollm2-moe", "smollm2-small": "smollm2-moe-small"}


@model.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2 or smollm2-small")] = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Download, verify and convert a model. An interrupted download is resumed."""
    known = ALIASES.get(name, name)
    if known not in FETCHED:
        raise CliError(
            f"there is no model {name!r} to fetch: choose one of {', '.join(ALIASES)}", code="no_model"
        )
    home = home_from_environment()
    argv = [sys.executable, "-m", *FETCHED[known], "--home", str(home.root), *(["--json"] if as_json else [])]
    if subprocess.run(argv, check=False).returncode != 0:
        raise typer.Exit(1)  # the program has printed the reason


@model.command("import")
def import_model(
    folder: Annotated[Path, typer.Argument(help="a folder that transformers' save_pretrained wrote")],
    name: Annotated[
        str | None, typer.Option(help="its name in the local store (default: the folder's name)")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 (default: as stored)")] = None,
    without_tokenizer: Annotated[
        bool,
        typer.Option(
            "--without-tokenizer", help="do not import its tokenizer: for training and evaluation only"
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a Hugging Face model into the local store; `gainshare up --model FOLDER` serves it."""
    name = folder.resolve().name if name is None else name
    if not name or Path(name).name != name or name.startswith("."):
        raise CliError(f"{name!r} is no name for a model: give a plain one with --name", code="usage")
    options = [*([] if dtype is None else ["--dtype", dtype]), *(["--without-tokenizer"] * without_tokenizer)]
    _convert("import", str(folder), str(_store() / name), *options, as_json=as_json)


@model.command("export")
def export_model(
    name: Annotated[str, typer.Argument(help="a model of the local store, or a folder with one")],
    folder: Annotated[Path, typer.Argument(help="the folder to write; it must not be there yet")],
    family: Annotated[str | None, typer.Option(help="model type (default: the first that fits)")] = None,
    unshare: Annotated[
        bool, typer.Option("--unshare", help="write a separate copy for layers that share weights")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model so that transformers' from_pretrained loads it."""
    stored = _store() / name
    options = [*([] if family is None else ["--family", family]), *(["--unshare"] if unshare else [])]
    source = stored if stored.is_dir() else Path(name)
    _convert("export", str(source), str(folder), *options, as_json=as_json)


@model.command("grow", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def grow_model(
    method: Annotated[str, typer.Argument(help="upcycle (dense to experts), experts (more) or depth")],
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="SOURCE (a model of the local store, or a folder with one), TARGET (the folder to write), and options: "
            "`gainshare model grow upcycle --help` lists them, --json among them"
        ),
    ],
) -> None:
    """Make a larger model from a trained one; docs/reference/growth.md compares the methods."""
    argv = [sys.executable, "-P", "-m", "model.growth", method, *arguments]
    status = subprocess.run(argv, check=False).returncode
    if status != 0:
        raise typer.Exit(status)


@model.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models that `gainshare up --model` accepts (imported ones by folder), and their state."""
    store = _store()
    rows = [{"name": name, "is_here": True, "folder": None} for name in BUILT_IN]
    imported = sorted({file.parent.name for file in store.glob("[!.]*/config.json")} - set(FETCHED))
    for name in (*FETCHED, *imported):
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


def _store() -> Path:
    return home_from_environment().root / "models"


def _convert(*arguments: str, as_json: bool) -> None:
    """Run `python -m model.hf`, which prints its result or error."""
    argv = [sys.executable, "-m", "model.hf", *arguments, *(["--json"] if as_json else [])]
    if subprocess.run(argv, check=False).returncode != 0:
        raise typer.Exit(1)
