"""Looks for what a model node could reach of the machine that serves it: databases, brokers, other secrets."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

from .attempt import Targets, attack, first_that_works, main

TIMEOUT_S = 1.0


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(path)


@attack
def sockets_of_the_host(targets: Targets) -> str | None:
    """Every unix socket that something listens on here: databases, brokers, daemons."""
    return first_that_works({path: partial(_connect, path) for path in targets["host_sockets"]})


@attack
def secrets_below_its_folders(targets: Targets) -> str | None:
    """Any file below /node that holds a secret other than the node's token."""
    canary = targets["canary"].encode()
    for folder, _, files in os.walk("/node"):
        for name in files:
            try:
                content = Path(folder, name).read_bytes()
            except OSError:
                continue
            if canary in content and name != "targets.json":
                return f"found in {folder}/{name}"
    return None


@attack
def own_code(targets: Targets) -> str | None:
    """Changes the tree that the node was started with, for its next start."""
    return first_that_works(
        {path: partial(_append, path) for path in targets["own_code"]}
        | {f"a file in {path}": partial(_create, path) for path in targets["own_folders"]}
    )


def _append(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def _create(folder: str) -> None:
    path = Path(folder, "planted.py")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    path.unlink()


if __name__ == "__main__":
    main()
