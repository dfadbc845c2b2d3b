"""Confines submitted code: what runs inside answers one message after another with bytes, and sees nothing else.

Levels, written on every result (`SandboxLevel`):

- `bubblewrap`: started as root. Own mount, PID, network, IPC, UTS and cgroup namespaces; a read-only root without
  the host's files; an unassigned uid per slot; no capability, no new privileges; a system-call filter; limits by
  cgroup (v1 or v2), else polled.
- `bubblewrap-user`: started by an ordinary user. The same in a separate user namespace; limits by a delegated
  cgroup, else polled.
- `container`: a container of crun, an OCI runtime without daemon, image or network; as root, or rootless. What runs
  inside finds the same as under bubblewrap.
- `none`: a plain child process, for development. Confines nothing, is never chosen unasked, never earns an award.

`best_level` says what this machine can do or raises `SandboxUnavailable` with what to do about it; `self_test`
attacks a sandbox for real. `spawn` starts a sample to talk to, `run` a command to its end. Neither torch nor Django
is imported here.
"""

from benchmarks.sandbox.artefacts import read_artefact
from benchmarks.sandbox.levels import (
    AWARD_ELIGIBLE,
    Limits,
    Mount,
    SandboxError,
    SandboxLevel,
    SandboxUnavailable,
    Unsteerable,
)
from benchmarks.sandbox.once import Completed, run
from benchmarks.sandbox.probe import best_level, levels_here, probe
from benchmarks.sandbox.runtime import PythonRuntime, python_runtime
from benchmarks.sandbox.sample import Sample
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.run import self_test
from benchmarks.sandbox.starting import spawn

__all__ = [
    "AWARD_ELIGIBLE",
    "Attack",
    "Completed",
    "Limits",
    "Mount",
    "PythonRuntime",
    "Sample",
    "SandboxError",
    "SandboxLevel",
    "SandboxUnavailable",
    "Unsteerable",
    "best_level",
    "levels_here",
    "probe",
    "python_runtime",
    "read_artefact",
    "run",
    "self_test",
    "spawn",
]
