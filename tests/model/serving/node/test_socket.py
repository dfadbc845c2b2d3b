"""A node on a unix socket, which ends when its stdin is closed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from model.serving.node.listening import listen_at

START_S = 240.0


@contextmanager
def _node(socket: Path) -> Iterator[subprocess.Popen[str]]:
    """A node that listens on a socket and ends with its stdin."""
    command = [sys.executable, "-m", "model.serving.node", "--model", "tiny", "--socket", str(socket)]
    with subprocess.Popen(
        [*command, "--end-with-stdin"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as node:
        assert node.stderr is not None
        assert node.stderr.readline() == f"model node tiny listens on the socket {socket}\n"
        yield node


def test_a_node_on_a_socket_answers_and_ends_with_its_stdin(open_folder: Path) -> None:
    path = open_folder / "s"
    path.write_text("what a killed node left")
    with _node(path) as node:
        assert node.stdin is not None
        deadline = time.monotonic() + START_S
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node") as client:
            while client.get("/health").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            asked = {"model": "tiny", "prompt": "a", "max_tokens": 3, "ignore_eos": True}
            answer = client.post("/v1/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 3
        node.stdin.close()
        assert node.wait(60) == 0


def test_a_node_whose_stdin_stays_open_ends_in_order_by_a_signal(open_folder: Path) -> None:
    with _node(open_folder / "s") as node:
        node.terminate()
        assert node.wait(60) == 0


def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*/none/s .*--socket"):
        listen_at(tmp_path / "none/s")
