"""`state.json`: state of a home's supervisor for other processes, and detection of a dead one.

Schema `gainshare.local/1`. It has no secrets. Only the supervisor writes it, always as a whole.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gainshare.local.errors import LocalModeError
from gainshare.local.paths import Home
from gainshare.local.supervision.processes import ProcessId

SCHEMA = "gainshare.local/1"


class AlreadyRunning(LocalModeError):
    """Another supervisor runs on this home."""


class NotRunning(LocalModeError):
    """No supervisor runs on this home."""


@dataclass
class ServiceState:
    """One supervised process. `state`: waiting, starting, ready, restarting, stopped or unavailable."""

    state: str = "waiting"
    pid: int | None = None
    started_ticks: int | None = None
    restarts: int = 0
    detail: str = ""

    @property
    def process(self) -> ProcessId | None:
        if self.pid is None or self.started_ticks is None:
            return None
        return ProcessId(self.pid, self.started_ticks)


@dataclass
class StackState:
    """State of the whole stack. `phase`: starting, ready, stopping, stopped or failed."""

    url: str
    model: str
    home: str
    run_folder: str
    supervisor: ProcessId
    boot_id: str
    phase: str = "starting"
    detail: str = ""
    warning: str = ""
    started_at: str = ""
    node_url: str | None = None
    sandbox: dict[str, Any] = field(default_factory=dict)
    sockets: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    services: dict[str, ServiceState] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "StackState":
        fields = {key: value for key, value in document.items() if key != "schema"}
        fields["supervisor"] = ProcessId(**fields["supervisor"])
        fields["services"] = {name: ServiceState(**row) for name, row in fields["services"].items()}
        return cls(**fields)

    def is_current(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return self.boot_id == boot_id() and self.supervisor.is_alive()


def boot_id() -> str:
    """Id of the machine's boot: pids from before a boot are not valid."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_state(home: Home) -> StackState | None:
    """The last written state, of a live or dead supervisor; None if there is none that can be read.

    Another version may have written other fields.
    """
    try:
        document = json.loads(home.state_file.read_text())
        return StackState.from_json(document) if document["schema"] == SCHEMA else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def running_state(home: Home) -> StackState:
    """The state of the supervisor that runs on `home` now. Raises NotRunning."""
    state = read_state(home)
    if state is None or not state.is_current():
        raise NotRunning(
            f"no local stack runs in {home.root}: start one with `gainshare up`", code="not_running"
        )
    return state


def write_state(home: Home, state: StackState) -> None:
    partial = home.state_file.with_suffix(".partial")
    partial.write_text(json.dumps(state.to_json(), indent=2) + "\n")
    partial.replace(home.state_file)


@contextmanager
def held_home(home: Home) -> Iterator[None]:
    """Lock the home for one supervisor. Raises AlreadyRunning. The lock ends with its process."""
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(home)
            where = f" at {state.url}" if state is not None else ""
            raise AlreadyRunning(
                f"a local stack already runs in {home.root}{where}: use it, stop it with `gainshare down`, or set "
                "GAINSHARE_HOME to another folder and choose another --port",
                code="already_running",
            ) from None
        yield
    finally:
        os.close(descriptor)
