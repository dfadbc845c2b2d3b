"""`python -m model.smollm2 fetch [MODEL] [--json] [--home DIR]`: progress on stderr, the result on stdout.

Exit status 0 when the model is there, 1 when it could not be fetched.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from model.command_errors import CommandParser, failed
from model.progress_lines import ProgressLines
from model.smollm2.fetch import GROWN, NAME, Fetched, FetchError, fetch


def fetch_line(stage: str, done: int, total: int | None) -> str:
    unit = f"{done / 1e6:.1f} MB" if stage == "download" else f"step {done}"
    return f"{stage}: {unit}" + (f", {100 * done // total} %" if total else "")


def main(arguments: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m model.smollm2", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="download SmolLM2-135M-Instruct and upcycle it")
    command.add_argument("model", nargs="?", choices=list(GROWN), default=NAME, help=f"default: {NAME}")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    command.add_argument("--home", type=Path, help="state folder (default: GAINSHARE_HOME, else .gainshare)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        fetched = fetch(ProgressLines(fetch_line), options.home, name=options.model)
    except FetchError as error:
        return failed(str(error), "fetch_failed", as_json=options.json)
    sys.stdout.write(_result(fetched, time.monotonic() - started, as_json=options.json))
    return 0


def _result(fetched: Fetched, seconds: float, *, as_json: bool) -> str:
    if as_json:
        document = {
            "model": fetched.name,
            "folder": str(fetched.folder),
            "bytes": fetched.n_bytes,
            "cached": fetched.was_cached,
            "seconds": round(seconds, 3),
        }
        return json.dumps(document) + "\n"
    how = "was already here" if fetched.was_cached else f"is ready after {seconds:.0f} s"
    return f"{fetched.name} {how}: {fetched.folder} ({fetched.n_bytes / 1e6:.0f} MB)\n"


if __name__ == "__main__":
    sys.exit(main())
