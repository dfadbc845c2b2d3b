"""Makes sure that the model a node is to serve is in the local store, fetching it where that is possible."""

import subprocess
import sys
from pathlib import Path

from gainshare.local.errors import LocalModeError

FETCHED = {"smollm2-moe": ("model.smollm2", "fetch")}
BUILT_IN = ("tiny",)


def ensure_model(model: str, home: Path) -> None:
    """Fetch `model` into `home` unless it is there, with progress on stderr. Raises LocalModeError.

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
            f"the model {model} could not be fetched (see above). `gainshare up --model tiny` needs no download; "
            "`--model none` starts without model access"
        )
