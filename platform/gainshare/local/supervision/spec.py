"""Plain data of a start plan: `ServiceSpec` for a process, `Step` for work between two of them."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LogSays = Callable[[str], bool]
"""Whether the service's log holds this text since the process was last started."""


@dataclass(frozen=True)
class ServiceSpec:
    """A process. `env` is its whole environment; `is_ready` is polled and may take at most 2 s per call."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    is_ready: Callable[[LogSays], bool]
    before_start: Callable[[], None] = lambda: None
    ready_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    cwd: Path | None = None
    user: int | None = None
    group: int | None = None
    unavailable: str = ""
    """Reason why this service cannot run on this machine; it is then left out, and the reason is shown."""


@dataclass(frozen=True)
class Step:
    """A function that is called once, in order, while the stack starts. Raises LocalModeError."""

    name: str
    run: Callable[[], None] = field(repr=False)


PlanItem = ServiceSpec | Step | tuple[ServiceSpec, ...]
"""Plan. The services of a tuple are started together, because none of them needs another."""


def services_of(plan: list[PlanItem]) -> list[ServiceSpec]:
    """All processes of a plan, in order."""
    found: list[ServiceSpec] = []
    for item in plan:
        if isinstance(item, ServiceSpec):
            found.append(item)
        elif isinstance(item, tuple):
            found += item
    return found
