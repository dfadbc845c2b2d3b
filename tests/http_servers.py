"""Runs a test's own HTTP server in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from socket import SHUT_RDWR
from threading import Thread


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Answer requests until the block ends, and then stop at once: the server's loop looks only twice a second."""
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.socket.shutdown(SHUT_RDWR)  # wakes the loop
        server.shutdown()
        server.server_close()
        thread.join(10)
