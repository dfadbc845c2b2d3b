"""Where tests make folders whose paths are short enough for the Unix sockets in them."""

import tempfile
from pathlib import Path

LONGEST = 26  # bytes: a socket has 107 for its path, and a stack has its sockets far below its folder
DEFAULT = Path("/tmp")


def short_parent() -> Path:
    """The folder for temporary files where its path is short, else /tmp."""
    folder = Path(tempfile.gettempdir())
    return folder if len(bytes(folder)) <= LONGEST else DEFAULT
