"""Fetches the model that a node serves into the local store, if it is missing."""

import subprocess
import sys
from pathlib import Path

from gainshare.local.errors import LocalModeError

FETCHED = {name: ("model.smollm2", "fetch", name) for name in ("smollm2-moe", "smollm2-moe-small")}
BUILT_IN = ("tiny",)


def ensure_model(model: str, home: Path) -> None:
    """Fetch `model` into `home` if it is missing, with progress on stderr. Raises LocalModeError.

    Built-in models and folders with a checkpoint need nothing.
    """
    if model in BUILT_IN or Path(model).is_dir():
        return
    if model not in FETCHED:
        known = ", ".join((*FETCHED, *BUILT_IN, "none"))
        raise LocalModeError(
            f"there is no model {model!r}: choose one of {known}, or a folder with a checkpoint"
        )
    argv = [sys.executable, "-m", *FETCHED[model], "--home", str(home)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise LocalModeError(
            f"the model {model} could not be fetched (see above): try again, use `gainshare up --model "
            "tiny`, which needs no download, or `--model none`, which starts without model access"
        )
