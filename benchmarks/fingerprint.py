"""What the judge's machine is, for the evidence: enough to tell two runners apart and to explain a figure.

Text and whole numbers only. Versions come from the installed packages' metadata: nothing is imported for it.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment(**more: Any) -> dict[str, Any]:
    """CPU, cores, kernel, Python and the packages that matter; `more` is added as it is."""
    return {
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "numpy": package_version("numpy"),
        **more,
    }


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
