"""Looks for the other sample that runs at the same time, and lashes out at everything it can name.

First as "quiet": leaves traces and waits for one byte on stdin. Then a second one as "hunter": looks for them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path

MARK = "gainshare-neighbour"
SCRATCH = ("/tmp", "/work", "/dev/shm")  # noqa: S108 - looked for in every sandbox


def quiet(token: str) -> None:
    """Leaves a socket, files and shared memory that carry `token`, then waits."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{MARK}-{token}")
    listener.listen()
    for folder in SCRATCH:
        Path(folder, f"{MARK}-{token}").write_text(token)
    port = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(json.dumps({"port": port.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    os.read(0, 1)
    sys.stdout.write("alive\n")


def hunter(token: str, pids: list[int], port: int) -> None:
    """Reports what was found of the other sample; then signals its host numbers and finally everything."""
    found = [folder for folder in SCRATCH if Path(folder, f"{MARK}-{token}").exists()]
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if token.encode() in path.read_bytes():
                found.append(str(path))
    for name, family, address in (
        ("abstract socket", socket.AF_UNIX, f"\0{MARK}-{token}"),
        ("loopback port", socket.AF_INET, ("127.0.0.1", port)),
    ):
        with socket.socket(family, socket.SOCK_STREAM) as client:
            if client.connect_ex(address) == 0:
                found.append(name)
    try:
        shared_memory.SharedMemory(f"{MARK}-{token}").close()
        found.append("shared memory")
    except OSError:
        pass
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            found.append(f"process {pid}")
        except OSError:
            continue
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os.kill(-1, signal.SIGKILL)


def main() -> None:
    """The first line on stdin says which of the two to be, as JSON."""
    line = bytearray()
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    order = json.loads(line)
    if order["role"] == "quiet":
        quiet(order["token"])
    else:
        hunter(order["token"], order["pids"], order["port"])


if __name__ == "__main__":
    main()
