"""Applies a diff to a checkout as careless scorers do: whichever tool takes it, then a look at the `+++` lines.

/original holds the checkout, /cheat.diff the diff. The policy is read from the checkout that was just patched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

DIFF = Path("/cheat.diff")
CHECKOUT = Path("/work/checkout")


def with_git() -> bool:
    return run("git", "apply", "--whitespace=nowarn", str(DIFF))


def with_patch() -> bool:
    return run("patch", "-p1", "-s", "-f", "-i", str(DIFF))


def by_hand() -> bool:
    """Twenty lines that many scorers have: new files are written where their `+++` line says."""
    target: Path | None = None
    for line in DIFF.read_text().splitlines(keepends=True):
        if line.startswith("+++ b/"):
            target = CHECKOUT / line[6:].rstrip("\n")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("")
        elif line.startswith("+") and target is not None:
            with target.open("a") as file:
                file.write(line[1:])
        elif line.startswith("-") and not line.startswith("--- "):
            return False
    return target is not None


def run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr, stderr=sys.stderr, check=False)
    return done.returncode == 0


def apply_anyhow() -> str | None:
    """The name of the tool that took it, or None."""
    for tool in (with_git, with_patch, by_hand):
        shutil.rmtree(CHECKOUT, ignore_errors=True)
        shutil.copytree("/original", CHECKOUT)
        if tool():
            return tool.__name__
    return None


def is_allowed() -> bool:
    """Check that every `+++` line names a file that the checkout's policy allows."""
    patch = tomllib.loads((CHECKOUT / "benchmarks" / "policy.toml").read_text())["patch"]
    paths = [line[6:] for line in DIFF.read_bytes().decode().split("\n") if line.startswith("+++ b/")]
    return all(
        any(covers(allowed, path) for allowed in patch["allowed"])
        and not any(covers(protected, path) for protected in patch["protected"])
        for path in paths
    )


def covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-2]) if pattern.endswith("/**") else path == pattern
