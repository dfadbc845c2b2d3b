"""Stands in for `python -m benchmarks.canary` in tests of the agent: its interface, and a real process group.

What it does is told by the model's store: `--models FOLDER/` holds `behave.json`. It starts a child, as a canary's nodes
are children, and says both process ids in `--folder`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("order", "trees", "folder", "key", "models", "level", "device", "memory-gib", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seats", nargs=2, type=int, required=True)
    given = vars(parser.parse_args())
    behave = json.loads((Path(given["models"]) / "behave.json").read_text())
    order = json.loads(Path(given["order"]).read_text())
    trees = [given["trees"] + "/" + (order[name] or "installed") for name in ("served", "candidate", "best")]
    missing = [tree for tree in trees if not (Path(tree) / "model/__init__.py").is_file()]
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pids = Path(given["models"]) / "pids"
    with pids.open("a") as out:
        out.write(f"{child.pid}\n")
    sys.stderr.write(f"a line\nprogress: {behave.get('progress', 'decode at 4: 6 of 30 pairs')}\n")
    sys.stderr.flush()
    if missing or "fails" in behave:
        sys.stderr.write(behave.get("fails", f"missing: {missing}") + "\n")
        child.kill()
        return int(behave.get("status", 3))
    deadline = time.monotonic() + behave.get("runs_s", 0)
    while time.monotonic() < deadline:
        time.sleep(0.02)
    document = {"nonce": order["nonce"], "order": order, "given": given, **behave.get("document", {})}
    Path(given["output"]).write_text(behave.get("text") or json.dumps(document))
    child.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
