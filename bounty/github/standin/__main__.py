"""`python -m bounty.github.standin`: runs the stand-in until Ctrl-C, with a repository made of a folder.

It prints the environment variables with which a local site speaks to it, and takes orders as lines of JSON on standard
input: `{"do": "comment", "pull": 1, "by": "cora", "body": "/judge"}`. Each is answered by a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bounty.github.standin.control.orders import Orders
from bounty.github.standin.control.standin import StandIn, running
from bounty.github.standin.git import Content
from gainshare.local.errors import LocalModeError

MOST_BYTES = 1024 * 1024
PRIVATE_KEY = "private-key.pem"


def main(arguments: list[str] | None = None) -> int:
    """Run the stand-in; the exit status."""
    named = _parser().parse_args(arguments)
    root = named.root or Path(tempfile.mkdtemp(prefix="gainshare-github-"))
    try:
        with running(root, port=named.port, hook_url=named.hook_url) as standin:
            _begin(standin, named.repository, named.files)
            _announce(standin, root)
            _serve(standin)
    except LocalModeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bounty.github.standin", description=__doc__)
    parser.add_argument(
        "--root", type=Path, help="folder for repositories and the key; a temporary one without it"
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; any free one without it")
    parser.add_argument(
        "--hook-url", default="", help="where events are sent, on this machine; without it none are"
    )
    parser.add_argument("--repository", default="octo/model", help="OWNER/NAME of the first repository")
    parser.add_argument("--files", type=Path, help="folder whose files it begins with")
    return parser


def _begin(standin: StandIn, full_name: str, folder: Path | None) -> None:
    files: dict[str, Content] = {"README.md": "Read me\n"}
    if folder is not None:
        found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
        files |= {
            str(path.relative_to(folder)): path.read_bytes()
            for path in found
            if ".git" not in path.parts
            and "__pycache__" not in path.parts
            and path.stat().st_size <= MOST_BYTES
        }
    standin.install([standin.add_repository(full_name, files)])


def _announce(standin: StandIn, root: Path) -> None:
    """Print the variables; the key goes to a file that only its owner can read."""
    key = root / PRIVATE_KEY
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(standin.private_key)
    variables = {name: value for name, value in standin.environment().items() if "PRIVATE_KEY" not in name}
    variables["GAINSHARE_GITHUB_PRIVATE_KEY_FILE"] = str(key)
    for name, value in variables.items():
        sys.stdout.write(f"{name}={value}\n")
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def _serve(standin: StandIn) -> None:
    """Obey orders, a line each, until a signal. The end of standard input ends the orders alone."""
    orders = Orders(standin)
    for line in _lines_until_signal(sys.stdin.fileno()):
        if line.strip():
            sys.stdout.write(json.dumps(orders.answer(line)) + "\n")
            sys.stdout.flush()


def _lines_until_signal(source: int) -> Iterator[str]:
    """Lines of a file descriptor, then wait for SIGTERM or SIGINT, which also ends the lines.

    One thread does both: Python aborts at exit if another thread is inside sys.stdin or sys.stdout then.
    """
    ended, end = os.pipe()
    os.set_blocking(end, False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(end)
    pending = b""
    waited_for = [source, ended]
    while ended not in select.select(waited_for, [], [])[0]:
        read = os.read(source, 65536)
        *lines, pending = (pending + (read or b"\n")).split(b"\n")
        if not read:
            waited_for.remove(source)
        yield from (line.decode() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
