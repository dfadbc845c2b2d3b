"""A node on a real port, served by a thread of the test's own process: real HTTP without the seconds of a start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model.serving.metering.generation import EngineLimits
from model.serving.node.app import Node
from model.serving.node.host import Host, Load, OnDeath
from model.serving.node.listening import listen
from model.serving.node.loading import load
from model.serving.node.process import DrainingServer
from model.serving.node.service import Service

START_S = 280.0  # kernels may have to be compiled first, on a busy machine


@dataclass
class ServedNode:
    """A running node. `drain` does what SIGTERM does."""

    url: str
    host: Host
    drain: Callable[[], None]
    thread: threading.Thread


def bundled(limits: EngineLimits | None = None, model: str = "tiny") -> Load:
    """Loads models for the engine as the node's command does."""

    def load_service(name: str | None, on_death: OnDeath) -> Service:
        return Service(load(name or model), limits or EngineLimits(), on_death)

    return load_service


@contextmanager
def serving(loader: Load, *, token: str | None = None, drain_s: float = 10.0) -> Iterator[ServedNode]:
    """Serves until the block is left; waits until the model is loaded."""
    host = Host(loader, drain_s=drain_s, on_failure=lambda: None)
    server = DrainingServer(Node(host, token=token).app(), host)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    try:
        deadline = time.monotonic() + START_S
        while host.deployment is None:
            assert host.failure is None, host.failure
            assert time.monotonic() < deadline, "the node did not load its model"
            time.sleep(0.01)
        yield ServedNode(f"http://127.0.0.1:{port}", host, lambda: server.handle_exit(15, None), thread)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the node did not end"
