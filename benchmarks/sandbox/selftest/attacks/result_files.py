"""Leaves traps where a judge would look for a build's results: links, endless pipes, sockets, huge files."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

MIB = 1024 * 1024


def main() -> None:
    """`argv`: the writable folder and the host's path of a secret. stdout names what could be left."""
    folder, secret = Path(sys.argv[1]), sys.argv[2]
    (folder / "honest").write_text("honest")
    (folder / "link").symlink_to(secret)
    (folder / "folder-link").symlink_to(Path(secret).parent)
    (folder / "up").symlink_to("..")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "first-name").write_text("x")
    (folder / "second-name").hardlink_to(folder / "first-name")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    with (folder / "huge").open("wb") as file:
        file.truncate(8 * MIB)
    sys.stdout.write("left\n")


if __name__ == "__main__":
    main()
