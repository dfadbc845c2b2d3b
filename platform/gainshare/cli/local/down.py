"""`gainshare down`: stops the local stack."""

from typing import Annotated

import typer

from gainshare.cli.output import JsonOption, console, print_json
from gainshare.local import stack
from gainshare.local.paths import home_from_environment
from gainshare.local.state import NotRunning


def down(
    delete_data: Annotated[
        bool,
        typer.Option("--delete-data", help="Also delete its database, logs, secrets and models permanently."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the local site. With --delete-data it is no error if none runs."""
    home = home_from_environment()
    stopped = True
    try:
        stack.stop(home)
    except NotRunning:
        if not delete_data:
            raise
        stopped = False
    if delete_data:
        stack.delete_data(home)
    if as_json:
        print_json({"stopped": stopped, "deleted": delete_data, "home": str(home.root)})
    else:
        console.print("stopped" if stopped else "nothing was running", highlight=False)
        if delete_data:
            console.print(f"deleted {home.root}", highlight=False, soft_wrap=True)
