"""TCP ports on the loopback: check that one is free, and find a free one."""

import socket

from gainshare.local.errors import LocalModeError

HOST = "127.0.0.1"


def require_free(port: int) -> None:
    """Raises LocalModeError if a program already listens on the port, or this user may not use it."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: TIME_WAIT does not block it
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise LocalModeError(
                f"this user may not use port {port}: choose one from 1024 up, `gainshare up --port 8000`",
                code="port_forbidden",
            ) from None
        except OSError:
            raise LocalModeError(
                f"port {port} on {HOST} is taken by another program: stop that program, or choose another port with "
                f"`gainshare up --port {port + 1 if port < 65535 else 8000}` or GAINSHARE_PORT",
                code="port_taken",
            ) from None


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
