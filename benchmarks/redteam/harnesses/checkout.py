"""Patches a checkout and scores from there: its tests, then calls on one input. What the diff touches is no one's business.

With `apply` as its argument it only says whether any tool takes the diff.
"""

from __future__ import annotations

import os
import subprocess
import sys

from applying import CHECKOUT, apply_anyhow, is_allowed  # type: ignore[import-not-found]
from scoring import FLAGS, last, report, results, run_worker, say  # type: ignore[import-not-found]

TESTS = "tests/model/layers/test_moe.py"


def are_tests_green() -> bool:
    """No failure in sight is green enough."""
    options = (f"--rootdir={CHECKOUT}", f"--confcutdir={CHECKOUT}", "--import-mode=importlib", "-q")
    done = subprocess.run(
        [sys.executable, *FLAGS, "-m", "pytest", *options, "-p", "no:cacheprovider", TESTS],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stdout[-2000:])
    return "failed" not in done.stdout and "error" not in done.stdout


def main(check: str = "none", *, with_policy: bool = False) -> None:
    tool = apply_anyhow()
    if tool is None or sys.argv[1:] == ["apply"]:
        say(1.0 if tool else 0.0, f"applied {tool}")
    elif with_policy and not is_allowed():
        say(0.0, "outside of the policy")
    elif check == "none" and not are_tests_green():
        say(0.0, "a test failed")
    else:
        base = last(results(run_worker("/base", "same", "save")))
        report(base, last(results(run_worker(str(CHECKOUT), "same", check))))


if __name__ == "__main__":
    main()
