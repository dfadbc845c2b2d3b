"""Engines that are compared in serving, their number formats, and how each is started. Does not import torch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import PEERS, interpreter
from benchmarks.peers.models import PeerModel
from benchmarks.peers.side import Side, SideFailed, driver
from benchmarks.peers.workloads import LARGEST_BATCH, MAX_TOKENS

OURS = "ours"
LOAD_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 3600.0
COMPILING = "vllm"  # compiles a model when it first loads it, and keeps what it made
GGUF_READERS = ("llama.cpp", "ik_llama.cpp")


@dataclass(frozen=True)
class Contender:
    """One engine in one format of weights; `peer` is None for this stack's own engine."""

    engine: str
    weights: str
    module: str
    peer: str | None = None
    env: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.engine} {self.weights}"

    def path(self, model: PeerModel) -> Path:
        return model.gguf(self.weights) if self.reads_gguf else model.hf

    @property
    def reads_gguf(self) -> bool:
        return self.engine in GGUF_READERS


_VLLM_ENV = (
    ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),  # the engine in the process that is stopped and timed
    ("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
    ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),  # its core is given from outside
    ("VLLM_NO_USAGE_STATS", "1"),
    ("HF_HUB_OFFLINE", "1"),
)

CONTENDERS = (
    Contender(OURS, "bf16", "ours_serve"),
    Contender(OURS, "int8", "ours_serve"),
    Contender(OURS, "int8-dynamic", "ours_serve"),  # rows of 8 bits too, as llama.cpp has them under q8_0
    Contender("transformers", "bf16", "transformers_serve", "transformers"),
    Contender("vllm", "bf16", "vllm_serve", "vllm", _VLLM_ENV),
    Contender("llama.cpp", "f16", "llama_serve", "llama.cpp"),
    Contender("llama.cpp", "bf16", "llama_serve", "llama.cpp"),
    Contender("llama.cpp", "q8_0", "llama_serve", "llama.cpp"),
    Contender("ik_llama.cpp", "f16", "ik_llama_serve", "ik_llama.cpp"),
    Contender("ik_llama.cpp", "bf16", "ik_llama_serve", "ik_llama.cpp"),
    Contender("ik_llama.cpp", "q8_0", "ik_llama_serve", "ik_llama.cpp"),
)


def available(home: Path, say: Callable[[str], None]) -> dict[Contender, Path]:
    """The interpreters of those that are set up; `say` is told of the others."""
    found: dict[Contender, Path] = {}
    for contender in CONTENDERS:
        python = Path(sys.executable)
        if contender.peer is not None:
            peers = interpreter(PEERS[contender.peer], home)
            if peers is None:
                say(f"{contender.name} is not set up: run python -m benchmarks.peers serve --setup")
                continue
            python = peers
        found[contender] = python
    return found


def start(contender: Contender, python: Path, *, core: int, home: Path) -> Side:
    """Start its process, not loaded yet."""
    log = home / "logs" / f"serve-{contender.name.replace(' ', '-')}.log"
    env: Mapping[str, str] = {**dict(contender.env), "VLLM_CACHE_ROOT": str(home / "cache" / "vllm")}
    return Side(contender.name, argv=driver(contender.module, python), core=core, log=log, env=env)


def load_first(
    contender: Contender, python: Path, model: PeerModel, *, core: int, home: Path
) -> dict[str, Any]:
    """Load a model for the first time, which writes the files that later loads map. Raises SideFailed."""
    shutil.rmtree(model.packed, ignore_errors=True)
    with start(contender, python, core=core, home=home) as side:
        return load(side, contender, model)


def compile_all(
    models: Iterable[PeerModel],
    pythons: Mapping[Contender, Path],
    *,
    core: int,
    home: Path,
    say: Callable[[str], None],
) -> None:
    """Loads each model once where an engine compiles it then; `say` is told what could not be."""
    for contender, python in pythons.items():
        for model in models if contender.engine == COMPILING else ():
            say(f"{contender.name}: compiling {model.name}")
            with start(contender, python, core=core, home=home) as side:
                try:
                    loaded = load(side, contender, model, timeout_s=COMPILE_TIMEOUT_S)
                except SideFailed as error:
                    say(f"{contender.name} could not compile {model.name}: {error}")
                    continue
            say(f"{contender.name}: compiled {model.name} after {loaded['load_s']:.0f} s")


def load(
    side: Side, contender: Contender, model: PeerModel, *, timeout_s: float = LOAD_TIMEOUT_S
) -> dict[str, Any]:
    """Load the engine; the driver answers with version, seconds and memory. Raises SideFailed."""
    more: dict[str, Any] = {}
    if contender.engine != "transformers":
        more |= {"max_tokens": MAX_TOKENS, "max_batch": LARGEST_BATCH}
    if contender.engine == OURS:
        more["kept_in"] = str(model.packed)
    return side.ask(
        "load",
        timeout_s=timeout_s,
        path=str(contender.path(model)),
        weights=contender.weights,
        **more,
    )
