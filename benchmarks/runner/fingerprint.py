"""Description of the judge's machine: for the evidence, and for the platform to notice when a runner's hardware changed.

Text and whole numbers only. Versions come from the installed packages' metadata: nothing is imported for it.
`python -m benchmarks.runner.fingerprint` prints the fingerprint that a runner is registered with.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.pairs.builds.build import rates
from benchmarks.patch.policy import harness_hash
from benchmarks.runner.toolchain import compiler, packages
from model import kernel_ways


def environment(**more: Any) -> dict[str, Any]:
    """CPU, cores, kernel, Python, packages, compiler and ways of kernels; `more` is added as it is."""
    return {
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages(),
        "compiler": compiler(),
        "kernels": dict(kernel_ways.as_evidence(rates())),
        **more,
    }


def fingerprint() -> dict[str, Any]:
    """Fingerprint that a runner sends with every request for work: a change of it means other hardware or another judge.

    Cores are those of the machine, not those that this process may use: the judge moves its own processes about.
    """
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "devices": device_names(),
        "harness": harness_hash(),
    }


def device_names(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The accelerators as their driver names them, in the order of their bus addresses."""
    names = []
    for information in sorted(folder.glob("*/information")):
        fields = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    return names


def cpu_name(cpuinfo: str | None = None) -> str:
    """The processor's name with family, model and stepping, which its marketing name often leaves out."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name") or fields.get("CPU part") or platform.processor() or "unknown"
    numbers = "/".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    return f"{name} ({numbers})" if numbers else name


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    json.dump(fingerprint(), sys.stdout, indent=2)
    print()
