"""A swapped-out model is freed at once, by its last reference alone: the garbage collector is off in all of these."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model import hf
from model.config import MoEConfig
from model.presets import PRESETS
from model.serving.api.errors import ApiError
from model.serving.api.requests import read_options
from model.serving.executors.base import Executor
from model.serving.executors.cuda_graphs import GraphedExecutor
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.generation import EngineLimits
from model.serving.node.backend import Ask, Backend, Running
from model.serving.node.freed_memory import return_freed_memory
from model.serving.node.host import Host, OnDeath
from model.serving.node.loading import load
from model.serving.node.served import ServedModel
from model.serving.node.service import Service
from model.serving.speculation.mtp import AheadExecutor
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_transformer
from tests.model.serving.executors.captured_each_time import EachTime
from tests.model.serving.node.test_loading import hf_folder, spoilt

pytestmark = pytest.mark.slow

MIB = 1 << 20
N_BLOCKS = 64
LIMITS = EngineLimits(max_running=4, step_tokens=32, max_drafts=4)
MOE = MoEConfig(d_model=PRESETS["tiny"].d_model, d_expert=16, n_experts=4, top_k=2)

Make = Callable[[ServedModel], tuple[ServedModel, Executor | None]]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def compiled(served: ServedModel) -> tuple[ServedModel, Executor | None]:
    return served, None


def plain(served: ServedModel) -> tuple[ServedModel, Executor | None]:
    """Mixtures in plain torch: the engine listens to their routers."""
    transformer = _random(replace(PRESETS["tiny"], moe=MOE))
    return replace(served, transformer=transformer), TorchExecutor(transformer, N_BLOCKS)


def drafting(served: ServedModel) -> tuple[ServedModel, Executor | None]:
    transformer = _random(replace(PRESETS["tiny"], n_ahead=2))
    return replace(served, transformer=transformer), AheadExecutor(transformer, N_BLOCKS)


def graphed(served: ServedModel) -> tuple[ServedModel, Executor | None]:
    transformer = _random(replace(PRESETS["tiny"], moe=MOE))
    return replace(served, transformer=transformer), GraphedExecutor(
        transformer, N_BLOCKS, capture=EachTime()
    )


def _random(config: Any) -> Transformer:
    return random_transformer(config).requires_grad_(False).eval()


class Watched:
    """Loads models, and knows which of their parts are still there."""

    def __init__(self, make: Make = compiled) -> None:
        self._make = make
        self.parts: list[dict[str, weakref.ref[Any]]] = []

    def load(self, name: str | None, on_death: OnDeath) -> Backend:
        served, executor = self._make(load(name or "tiny"))
        found = {"tokenizer": served.tokenizer, "transformer": served.transformer}
        self.parts.append({part: weakref.ref(value) for part, value in found.items()})
        service = Service(served, LIMITS, on_death, executor)
        core = service.engine._core
        found = {"service": service, "engine": service.engine, "core": core, "executor": core.executor}
        self.parts[-1] |= {part: weakref.ref(value) for part, value in found.items()}
        return service

    def alive(self, model: int) -> list[str]:
        return [part for part, reference in self.parts[model].items() if reference() is not None]

    async def freed(self, model: int) -> bool:
        """Waits for the engine's thread, which ends by itself."""
        for _ in range(500):
            if not self.alive(model):
                return True
            await asyncio.sleep(0.01)
        return False


def asked(**fields: Any) -> Ask:
    body = {"model": "tiny", "prompt": "to be or not to be or not to", "max_tokens": 24, **fields}
    return Ask(body["prompt"], read_options(body, is_chat=False), False, body)


async def answered(running: Running) -> None:
    async for _ in running.pieces():
        pass
    running.cancel()


@pytest.mark.parametrize("make", [compiled, plain, drafting, graphed])
async def test_swapped_out_models_are_freed_without_the_garbage_collector(make: Make) -> None:
    watched = Watched(make)
    host = Host(watched.load, drain_s=5, on_failure=lambda: None)
    await host.start()
    for model in range(3):
        await answered(await host.current.start(asked()))
        await answered(await host.current.start(asked(n=2, logprobs=2, temperature=0)))
        await answered(await host.current.start(asked(response_format={"type": "json_object"})))
        await host.current.backend.count("how long is this")
        await host.swap("tiny")
        assert await watched.freed(model), watched.alive(model)
    assert "engine" in watched.alive(-1)
    await host.stop()


@pytest.mark.parametrize("make", [compiled, drafting])
async def test_a_client_that_stops_reading_keeps_no_model_in_memory(make: Make) -> None:
    watched = Watched(make)
    host = Host(watched.load, drain_s=0.05, on_failure=lambda: None)
    await host.start()
    running = await host.current.start(asked(max_tokens=400, n=2, ignore_eos=True))
    pieces = running.pieces()
    await anext(pieces)
    await host.swap("tiny")
    assert await watched.freed(0) or watched.alive(0) == ["tokenizer"], watched.alive(0)
    try:  # it may have been complete before the other model was loaded
        async for _ in pieces:
            pass
    except ApiError as error:
        assert "early" in error.message
    running.cancel()
    await host.stop()


async def test_models_that_could_not_be_loaded_are_freed_too(tmp_path: Path) -> None:
    watched = Watched()
    host = Host(watched.load, drain_s=5, on_failure=lambda: None)
    await host.start()
    broken = str(spoilt(tmp_path / "spoilt"))
    for model in (1, 2):
        with pytest.raises(ApiError, match="not finite"):
            await host.swap(broken)
        assert await watched.freed(model), watched.alive(model)
    assert "engine" in watched.alive(0)
    await host.stop()


async def test_the_death_of_a_swapped_out_model_ends_nothing() -> None:
    deaths: list[OnDeath] = []
    watched = Watched()

    def load(name: str | None, on_death: OnDeath) -> Backend:
        deaths.append(on_death)
        return watched.load(name, on_death)

    host = Host(load, drain_s=5, on_failure=lambda: None)
    await host.start()
    await host.swap("tiny")
    assert await watched.freed(0)
    deaths[0](RuntimeError("the old one"))
    await asyncio.sleep(0.01)
    assert host.failure is None
    deaths[1](RuntimeError("the current one"))
    await asyncio.sleep(0.01)
    assert str(host.failure) == "the current one"
    await host.stop()


def test_freed_memory_is_returned_to_the_system() -> None:
    before = resident()
    small = [bytes(100_000) + bytes([i % 256]) for i in range(2000)]  # below glibc's threshold for mappings
    pins = [bytes(64) + bytes([i % 256]) for i in range(2000)]
    grown = resident() - before
    del small
    return_freed_memory()
    assert grown > 150 * MIB and resident() - before < 50 * MIB and len(pins) == 2000


def resident(pid: int | str = "self") -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


LARGER = replace(SMALL, d_model=512, d_head=64, n_heads=8, n_kv_heads=4, d_ff=2048, n_layers=4)


def larger_folder(folder: Path, seed: int) -> Path:
    """About 60 MB of weights."""
    files = {name: (hf_folder(folder / "small") / name).read_text() for name in ("tokenizer.json",)}
    state = random_transformer(LARGER, seed).state_dict()
    hf.save(folder / "large", LARGER, state, extra={"eos_token_id": 7}, files=files)
    return folder / "large"


@pytest.mark.parametrize(
    "options", [(), ("--keep-packed",)], ids=["packed into memory", "packed into a file"]
)
def test_a_real_node_is_as_large_after_many_swaps_as_after_the_first(
    start_node: Callable[..., Any], tmp_path: Path, options: tuple[str, ...]
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    folders = [larger_folder(tmp_path / name, seed) for seed, name in enumerate("ab")]
    weights = (folders[0] / "model.safetensors").stat().st_size
    program = ("-c", "import gc; gc.disable(); from model.serving.node.command import main; main()")
    where = ("--model", str(folders[0]), "--token-file", str(token), "--home", str(tmp_path))
    node = start_node(*where, *options, program=program)
    headers = {"Authorization": "Bearer secret"}
    with httpx.Client(base_url=node.url, headers=headers, timeout=120) as client:
        sizes = [swapped(client, node.process.pid, folders[number % 2]) for number in range(1, 9)]
    assert weights > 50 * MIB
    assert max(sizes[1:]) - sizes[0] < weights // 2, [size // MIB for size in sizes]


def swapped(client: httpx.Client, pid: int, folder: Path) -> int:
    """The node's resident memory, once it has swapped and answered; settled means that the old model has ended."""
    done = client.post("/admin/swap", json={"model": str(folder)})
    assert done.status_code == 200, done.text
    body = {"model": "large", "prompt": [1, 2, 3], "max_tokens": 8}
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert any(json.loads(line[6:])["choices"] for line in answer.iter_lines() if line[6:7] == "{")
    n_threads, before = -1, resident(pid)
    for _ in range(100):
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        now = resident(pid)
        if threads == n_threads and now == before:
            return now
        n_threads, before = threads, now
        client.get("/health")
    return before
