"""Runs Python as an ordinary user, also where the tests were started as root.

Started as root, a separate mount namespace lets that user reach the interpreter, the virtual environment and the
checkout even below a closed home.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
USER = 54321

#: Arguments: the paths to reach, "--", the command. Binds them aside, empties closed folders above them, moves them back.
BECOME_USER = r"""
set -e
hold=$(mktemp -d /tmp/gainshare-hold.XXXXXX)
mount -t tmpfs -o mode=755 tmpfs "$hold"
paths=""; count=0
while [ "$1" != -- ]; do
    mkdir "$hold/$count"; mount --bind "$1" "$hold/$count"
    paths="$paths $1"; count=$((count + 1)); shift
done
shift
for path in $paths; do
    folder=""
    for part in $(echo "$path" | tr / ' '); do
        folder="$folder/$part"
        if ! setpriv --reuid=USER --regid=USER --clear-groups test -x "$folder" && [ "$folder" != "$path" ]; then
            mount -t tmpfs -o mode=755 tmpfs "$folder"; break
        fi
    done
done
count=0
for path in $paths; do
    mkdir -p "$path"; mount --move "$hold/$count" "$path"; count=$((count + 1))
done
cd /tmp
umount "$hold"; rmdir "$hold"
exec setpriv --reuid=USER --regid=USER --clear-groups --inh-caps=-all --bounding-set=-all -- "$@"
""".replace("USER", str(USER))


def as_user(
    code: str, *, path: str | None = None, timeout_s: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Runs Python code as an ordinary user, with this checkout importable; `path` is its PATH, or else ours."""
    command = [sys.executable, "-B", "-c", textwrap.dedent(code)]
    environment = {"PATH": path or os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent"}
    if os.geteuid() == 0:
        paths = dict.fromkeys(str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, CHECKOUT))
        needed = [path for path in paths if not path.startswith("/usr")]
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            BECOME_USER,
            "sh",
            *needed,
            "--",
            *command,
        ]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def in_sandbox_as_user(
    code: str, missing: str = "no sandbox for users on this machine"
) -> "subprocess.CompletedProcess[str]":
    """As `as_user`; skips with `missing` where an ordinary user may not have the sandbox that the code asks for."""
    answer = as_user(code)
    if "SandboxUnavailable" in answer.stderr:
        pytest.skip(f"{missing}: {answer.stderr.splitlines()[-1]}")
    return answer
