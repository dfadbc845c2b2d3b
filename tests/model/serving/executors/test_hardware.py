"""A node's options for what computes: what goes together, what is loaded, and what is refused with a reason."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch

from model import native
from model.parallel.mesh.mesh import MeshError
from model.parallel.placement.device_model import DeviceModel, DeviceModelError, to_json
from model.parallel.placement.parts import PlacementError
from model.serving.executors import hardware
from model.serving.executors.accelerated import accelerated_executor
from model.serving.executors.choice import BLOCK_TOKENS
from model.serving.executors.cuda_graphs import GraphedExecutor
from model.serving.executors.hardware import Hardware, add_options, load_on, read_options
from model.serving.executors.native import NativeExecutor
from model.serving.executors.packed import Weights
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.engine import EngineLimits
from model.serving.node.served import ServedModel, load_served, tiny
from model.serving.offload.executor import OffloadExecutor
from tests.model.conftest import NodeProcess
from tests.model.serving.engine.paged_steps import served_mix
from tests.model.serving.executors.captured_each_time import EachTime

LIMITS = EngineLimits(max_cache_bytes=1 << 20)
WAIT_S = 120  # on a busy machine


def read(*arguments: str) -> Hardware:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is the same on every machine; tests that want a device say so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_options_the_fastest_executor_has_the_only_copy_of_the_weights() -> None:
    assert read() == Hardware(keeps_packed=True)
    served, kept = load_on(read(), "tiny", None, LIMITS), tiny().transformer
    assert isinstance(served.executor, NativeExecutor)
    assert {weight.device.type for weight in served.transformer.parameters()} == {"meta"}
    assert served.transformer.dtype == kept.dtype
    beside = NativeExecutor(kept, served.executor.n_blocks, weights=served.executor.weights.weights)
    assert served_mix(served.executor, 261)[1] == served_mix(beside, 261)[1]
    assert {weight.device.type for weight in kept.parameters()} == {"cpu"}


def test_without_kernels_plain_torch_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "state", lambda: "no compiler")
    served = load_on(read(), "tiny", None, LIMITS)
    assert isinstance(served.executor, TorchExecutor)
    assert {weight.device.type for weight in served.transformer.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensor-parallel", "2", "--expert-parallel", "3"], "one a multiple of the other"),
        (["--hot-experts", "2", "--device-models", "a.json"], "leave --hot-experts out"),
        (["--hot-experts", "2", "--accelerator", "cpu", "--tensor-parallel", "2"], "single process"),
        (
            ["--weights", "int8", "--tensor-parallel", "2"],
            "cannot be combined with several ranks or offloading",
        ),
        (["--hot-experts", "2", "--accelerator", "abacus"], "no device 'abacus' here .* give another"),
        (["--accelerator", "cuda"], "leave it out, or use --device to compute everything there"),
        (["--accelerator", "cpu", "--device-models", "a.json"], "--device-models name theirs"),
        (["--device", "cuda", "--tensor-parallel", "2"], "several ranks choose their own: leave it out"),
        (["--device", "cpu", "--hot-experts", "2"], "uses --accelerator and the host: leave it out"),
        (["--device", "cpu", "--device-models", "a.json"], "name theirs: leave it out"),
        (["--device", "cuda", "--weights", "int8"], "on the host: use fp32 or bf16 on cuda"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises((ValueError, MeshError), match=message):
        read(*arguments)


def test_a_cuda_device_that_torch_does_not_see_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch sees no CUDA device here \(.*\): leave --device out"):
        read("--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ([], "cuda"),
        (["--device", "cuda"], "cuda"),
        (["--device", "cuda", "--weights", "bf16"], "cuda"),
        (["--device", "cpu"], "cpu"),
        (["--weights", "int8"], "cpu"),
        (["--tensor-parallel", "2"], "cpu"),
        (["--hot-experts", "2", "--accelerator", "cpu"], "cpu"),
    ],
)
def test_where_torch_sees_cuda_it_computes_unless_something_of_the_host_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert read(*arguments).device == torch.device(device)


@pytest.mark.parametrize(("weights", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16)])
def test_on_cuda_the_model_is_loaded_there_and_its_decode_steps_are_captured(
    monkeypatch: pytest.MonkeyPatch, weights: Weights | None, dtype: torch.dtype
) -> None:
    loaded_on: list[torch.device | None] = []
    capture = EachTime()

    def load(name: str, home: Path | None, device: torch.device | None) -> ServedModel:
        loaded_on.append(device)  # there is none here
        return load_served(name, home)

    monkeypatch.setattr(hardware, "load_served", load)
    monkeypatch.setattr(hardware, "accelerated_executor", partial(accelerated_executor, capture=capture))
    served = load_on(Hardware(device=torch.device("cuda"), weights=weights), "tiny", None, LIMITS)
    assert loaded_on == [torch.device("cuda")]
    assert isinstance(served.executor, GraphedExecutor) and capture.n_captured == served.executor.n_graphs > 0
    assert served.executor.transformer is served.transformer and served.transformer.dtype is dtype
    if weights is None:
        alone = TorchExecutor(tiny().transformer, served.executor.n_blocks, block_tokens=BLOCK_TOKENS)
        assert served_mix(served.executor, 261)[1] == served_mix(alone, 261)[1]
        assert capture.n_replayed > 0


def test_weights_are_packed_in_the_form_asked_for_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    served = load_on(read("--weights", "int8"), "tiny", None, LIMITS)
    assert isinstance(served.executor, NativeExecutor) and served.executor.weights.weights == "int8"
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "state", lambda: "no compiler")
    with pytest.raises(ValueError, match="tiny cannot be served in int8: no compiler"):
        load_on(read("--weights", "int8"), "tiny", None, LIMITS)


def test_hot_experts_are_served_with_the_answers_of_one_device() -> None:
    served = load_on(read("--hot-experts", "3", "--accelerator", "cpu"), "tiny", None, LIMITS)
    assert isinstance(served.executor, OffloadExecutor)
    assert [experts.hot_ids for experts in served.executor.experts] == [[0, 1, 2]] * 2
    alone = TorchExecutor(tiny().transformer, served.executor.n_blocks, block_tokens=BLOCK_TOKENS)
    assert served.executor.bytes_per_block == alone.bytes_per_block
    assert served_mix(served.executor, 261)[1] == served_mix(alone, 261)[1]


def test_device_models_decide_where_experts_lie(tmp_path: Path) -> None:
    rates = dict.fromkeys(("data", "attention", "dense", "experts"), ((1.0, 10000000000.0),))
    host = DeviceModel("host", "cpu", "2026-01-01", "float32", 1 << 30, 10.0, 1e300, 0.0, rates)  # type: ignore[arg-type]
    file = tmp_path / "cpu.json"
    file.write_text(to_json(host))
    served = load_on(read("--device-models", str(file)), "tiny", None, LIMITS)
    assert isinstance(served.executor, OffloadExecutor)
    assert [experts.hot for experts in served.executor.experts] == [None, None]
    weights = 4 * tiny().transformer.config.total_parameters
    file.write_text(to_json(dataclasses.replace(host, memory_bytes=weights + LIMITS.max_cache_bytes // 2)))
    with pytest.raises(
        PlacementError, match="tiny does not fit on host in any placement: it needs, in GB: attention"
    ):
        load_on(read("--device-models", str(file)), "tiny", None, LIMITS)  # the cache has no room
    file.write_text(to_json(dataclasses.replace(host, name="abacus", kind="abacus")))
    with pytest.raises(ValueError, match="no device 'abacus' here"):
        load_on(read("--device-models", str(file)), "tiny", None, LIMITS)
    with pytest.raises(DeviceModelError, match="placement measure"):
        load_on(read("--device-models", str(tmp_path / "none.json")), "tiny", None, LIMITS)


def children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.long
def test_a_node_of_two_ranks_serves_and_ends_with_a_rank_that_is_killed(
    start_node: Callable[..., NodeProcess],
) -> None:
    node = start_node("--model", "tiny", "--tensor-parallel", "2", "--expert-parallel", "2")
    asked = {"model": "tiny", "prompt": "one or many?", "max_tokens": 8, "temperature": 0}
    one = start_node("--model", "tiny")
    texts = [
        httpx.post(f"{each.url}/v1/completions", json=asked, timeout=60).json()["choices"][0]["text"]
        for each in (node, one)
    ]
    assert texts[0] == texts[1] != ""
    (rank,) = children(node.process.pid)
    os.kill(rank, signal.SIGKILL)
    assert node.process.wait(WAIT_S) == 1
    errors = "".join(node.stderr)
    assert "error: rank 1 was ended by SIGKILL, and the others cannot continue without it" in errors


@pytest.mark.long
def test_a_node_that_is_told_to_stop_takes_its_ranks_with_it(start_node: Callable[..., NodeProcess]) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        node = start_node("--model", "tiny", "--tensor-parallel", "2")
        (rank,) = children(node.process.pid)
        node.process.send_signal(number)
        assert node.process.wait(WAIT_S) in (status, -number)
        for _ in range(WAIT_S * 20):
            if not Path(f"/proc/{rank}").exists() or "zombie" in Path(f"/proc/{rank}/status").read_text():
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the rank outlives its node")
