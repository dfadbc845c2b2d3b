"""What a runner says its machine is: the same each time, small, and without anything that the judge changes itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.patch.policy import harness_hash
from benchmarks.runner.fingerprint import cpu_name, device_names, environment, fingerprint
from model import kernel_ways
from model.kernel_ways import Rates

ROOT = Path(__file__).resolve().parents[3]


def test_it_names_the_machine_and_the_judge() -> None:
    found = fingerprint()
    assert set(found) == {"cpu", "cores", "memory_bytes", "kernel", "devices", "harness"}
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 2**28
    assert found["harness"] == harness_hash()
    assert found["kernel"] == os.uname().release


def test_the_evidence_s_environment_names_the_ways_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Rates(fma=2e9, dot=1e9, fp32_own=1e9, fp32_torch=2e9, bf16_own=2e9, bf16_torch=1e9)
    monkeypatch.delenv(kernel_ways.FORCED, raising=False)
    monkeypatch.setattr("benchmarks.runner.fingerprint.rates", lambda: measured)
    found = environment(level="container")
    assert (found["level"], found["cores"]) == ("container", len(os.sched_getaffinity(0)))
    assert found["kernels"]["bf16"] == "fma" and found["kernels"]["fma"] == 2_000_000_000
    monkeypatch.setattr("benchmarks.runner.fingerprint.rates", lambda: None)
    assert environment()["kernels"] == {}


def test_pinning_a_process_does_not_change_it() -> None:
    allowed = os.sched_getaffinity(0)
    before = fingerprint()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert fingerprint() == before
    finally:
        os.sched_setaffinity(0, allowed)


def test_devices_are_read_from_the_driver_in_bus_order(tmp_path: Path) -> None:
    for bus, model in (("0000:41:00.0", "NVIDIA B"), ("0000:01:00.0", "NVIDIA A")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t {model}\nIRQ:   42\nGPU UUID: GPU-1\n")
    assert device_names(tmp_path) == ["NVIDIA A", "NVIDIA B"]
    assert device_names(tmp_path / "missing") == []


def test_a_processor_without_a_marketing_name_is_told_apart_by_its_numbers() -> None:
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert cpu_name(arm) == "0xd0c"
    intel = "model name\t: Some CPU\ncpu family\t: 6\nmodel\t\t: 167\nstepping\t: 1\n"
    assert cpu_name(intel) == "Some CPU (6/167/1)"


def test_the_command_prints_what_a_runner_is_registered_with() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runner.fingerprint"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["cpu"] == cpu_name()
