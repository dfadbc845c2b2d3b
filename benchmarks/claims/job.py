"""One job in a separate process: a request as JSON on standard input, the answer as the last line of output.

{"kind": "training", "settings": {...}, "made": "/folder/for/what/stays", "core": null}
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.claims.parent import end_with_parent

KINDS = ("corpus", "training", "sparse_moe", "padding", "recompute", "parallelism", "placement")


def main() -> None:
    end_with_parent()  # a run that is killed leaves no job behind
    request = json.load(sys.stdin)
    if request["kind"] not in KINDS:
        sys.exit(f"unknown kind of job {request['kind']!r}: choose of {', '.join(KINDS)}")
    if request["core"] is not None:
        os.sched_setaffinity(0, {request["core"]})  # before torch starts threads
    work = importlib.import_module(f"benchmarks.claims.{request['kind']}").work
    answer = {**work(request["settings"], Path(request["made"])), "cpu_seconds": time.process_time()}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
