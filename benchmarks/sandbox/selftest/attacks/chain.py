"""Runs families one after the other in one process, for code that is imported where no driver can start it.

`python -m attacks.chain NUMBER TARGETS_FILE`: the family of that number, then this again with the next. Each one begins
with a line that names it.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path


def main() -> None:
    number, file = int(sys.argv[1]), sys.argv[2]
    text = Path(file).read_text()
    families = json.loads(text)["families"]
    if number == len(families):
        os._exit(0)
    sys.stdout.write(json.dumps({"family": families[number]}) + "\n")
    sys.stdout.flush()
    sys.stdin = io.StringIO(text)
    importlib.import_module(f"attacks.{families[number]}").main()
    python = [sys.executable, "-S", "-s", "-B"]
    os.execv(sys.executable, [*python, "-m", "attacks.chain", str(number + 1), file])  # noqa: S606


if __name__ == "__main__":
    main()
