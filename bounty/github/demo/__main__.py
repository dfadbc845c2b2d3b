"""`python -m bounty.github.demo`: what `gainshare demo --github` runs, since no command imports bounty."""

from __future__ import annotations

import argparse
import sys

from benchmarks.commands import Terminated, answering_signals
from bounty.github.demo.performance import run_story
from gainshare.cli.output import console, errors, print_json
from gainshare.local.ports import free_port


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 only if every step had its expected outcome; a signal ends it as in a shell, after its stack."""
    parser = argparse.ArgumentParser(prog="gainshare demo --github", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of the site; 0 chooses a free one")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    asked = parser.parse_args(arguments)
    try:
        with answering_signals():
            record = run_story(port=asked.port or free_port(), console=errors if asked.json else console)
    except Terminated as ended:
        return 128 + ended.number
    if asked.json:
        print_json(record.as_json())
    else:
        words = "Every step went as expected" if record.ok else "NOT as expected"
        console.print(f"{words}: see .gainshare/demo-github.json")
    return 0 if record.ok else 1


if __name__ == "__main__":
    sys.exit(main())
