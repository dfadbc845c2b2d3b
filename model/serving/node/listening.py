"""Sockets on which a node, or the starter of a confined one, listens. Imports no torch."""

from __future__ import annotations

import socket
from pathlib import Path


def listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything is loaded, so that a taken port is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With an explicit protocol asyncio sets TCP_NODELAY: each streamed token is sent at once.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another port with --port"
        ) from error
    return listener


def listen_at(path: Path) -> socket.socket:
    """Bind a unix socket; one that a killed node left is replaced. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {path} ({error.strerror}): choose another path with --socket"
        ) from error
    return listener
