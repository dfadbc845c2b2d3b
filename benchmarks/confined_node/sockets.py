"""Connections to a socket in a folder that hostile code may write into."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path


def connect(folder: Path, name: str) -> socket.socket:
    """A connection to the socket `name` of `folder`. Links are not followed: they could name any socket of this host.

    Raises OSError.
    """
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise ConnectionRefusedError(f"{name} is no socket")
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(f"/proc/self/fd/{handle}")  # a socket's own path may be too long
        except OSError:
            made.close()
            raise
        return made
    finally:
        os.close(handle)
