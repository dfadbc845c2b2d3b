"""A running local stack for tests: its address, its data, and ways to damage it.

Fault points are all armed from the start but disarmed by their marker files, so a test arms one on the running
stack with `stack.arm("runner.leased")` and sees with `stack.has_fired(...)` that the process was killed there.
"""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import pytest

from gainshare.local import stack as local_stack
from gainshare.local.paths import Home
from gainshare.local.ports import free_port
from gainshare.local.postgres import Cluster
from gainshare.local.secrets import Secrets, read_secret
from gainshare.local.state import StackState, running_state
from gainshare.local.supervision.processes import kill_all, session_members, tagged
from tests.short_paths import short_parent

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
FAULT_POINT = re.compile(r"""fault_point\(\s*["']([a-z0-9_.]+)["']""")
SHARED = ("GAINSHARE_KERNELS", "GAINSHARE_SCHEMAS")  # of the checkout, for all homes
# Short, so that what a killed process leaves behind is taken up within a test's patience.
SHORT_LEASES = {
    "GAINSHARE_RECHECK_PERCENT": "0",  # a random run now and then would make counts of runs random
    "GAINSHARE_RUN_LEASE_S": "6",
    "GAINSHARE_HOLD_S": "20",
    "GAINSHARE_BEAT_INTERVAL_S": "1",
    "OMP_NUM_THREADS": "1",
}


def every_fault_point() -> set[str]:
    """The names of all fault points in the sources."""
    sources = (
        path for folder in ("benchmarks", "bounty", "platform") for path in (ROOT / folder).rglob("*.py")
    )
    return {name for path in sources for name in FAULT_POINT.findall(path.read_text())}


class Stack:
    """A running stack: its address, the administrator's key, and ways to damage it.

    `prepare` gets the home before the first start, to put something into it. With `devices` it is elastic: a node agent
    with so many devices instead of one fixed node.
    """

    def __init__(
        self,
        *,
        model: str = "tiny",
        devices: int = 0,
        prepare: Callable[[Home], None] | None = None,
        **overrides: str,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gsa-", dir=short_parent()))
        self.folder.chmod(0o711)  # the database's user passes through
        self.home = Home(self.folder / "home")
        self.faults = self.folder / "faults"
        self.faults.mkdir()
        self.fault_names = every_fault_point()
        for name in self.fault_names:
            (self.faults / name).touch()
        self._model = model
        self._devices = devices
        self._env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("GAINSHARE_", "DJANGO_")) or name in SHARED
            },
            **SHORT_LEASES,
            **overrides,
            "GAINSHARE_FAULT": ",".join(sorted(self.fault_names)),
            "GAINSHARE_FAULT_DIR": str(self.faults),
        }
        for name in ("DATABASE_URL", "BROKER_URL"):
            self._env.pop(name, None)
        if prepare is not None:
            prepare(self.home)
        self.start()

    def start(self) -> None:
        self._started = local_stack.start_background(
            self.home, port=free_port(), model=self._model, env=self._env, devices=self._devices
        )

    def stop(self) -> None:
        local_stack.stop(self.home)

    def remove(self) -> None:
        """Stop whatever runs and delete everything, even after a test that killed the supervisor."""
        with contextlib.suppress(local_stack.LocalModeError):
            self.stop()
        kill_all(lambda: tagged(f"{self.home.digest}."))
        shutil.rmtree(self.home.run, ignore_errors=True)
        shutil.rmtree(self.home.outside, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return self._started.url

    @property
    def key(self) -> str:
        """The administrator's API key; the administrator is a maintainer."""
        return read_secret(Secrets(self.home.secrets).admin_key)

    @property
    def admin_password(self) -> str:
        return read_secret(Secrets(self.home.secrets).admin_password)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which `gainshare` commands find this stack."""
        return {**self._env, "GAINSHARE_HOME": str(self.home.root)}

    def state(self) -> StackState:
        return running_state(self.home)

    def log(self, service: str) -> str:
        return (self.home.logs / f"{service}.log").read_text(errors="replace")

    def client(self, key: str | None = None) -> httpx.Client:
        """REST with the given key, the administrator's by default; the caller closes it."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=60, trust_env=False)

    def database(self) -> "psycopg.Connection[Any]":
        """A separate connection to the stack's database."""
        password = read_secret(Secrets(self.home.secrets).database_password)
        cluster = Cluster(data=self.home.postgres_data, sockets=self.home.postgres_sockets, password=password)
        return psycopg.connect(cluster.url(), autocommit=True)

    # -- Faults ---------------------------------------------------------------------------------------

    def arm(self, fault: str) -> None:
        """The next process that passes this fault point kills itself with SIGKILL, once."""
        assert fault in self.fault_names, f"there is no fault point {fault}: {sorted(self.fault_names)}"
        (self.faults / fault).unlink()

    def has_fired(self, fault: str) -> bool:
        return (self.faults / fault).exists()

    def disarm(self) -> None:
        """Put every marker back, so that no fault of this test fires in the next."""
        for name in self.fault_names:
            (self.faults / name).touch()

    def pid(self, service: str) -> int:
        """The pid of a service that runs now."""
        return local_stack.pid_of(self.state(), service)

    def pool_children(self, service: str) -> list[int]:
        """The pids of a worker's pool processes."""
        leader = self.pid(service)
        return [pid for pid in session_members(leader) if pid != leader]

    def kill(self, service: str, *, whole: bool = True) -> int:
        """kill -9 a service: all of its session, or its leader alone. Returns the leader's pid."""
        leader = self.pid(service)
        for pid in session_members(leader) if whole else [leader]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return leader

    def wait_ready(self, service: str, *, after: int | None = None, within_s: float = 60) -> int:
        """Wait until a service is ready, with another pid than `after` where that is given. Returns its pid."""

        def found() -> int | None:
            row = self.state().services[service]
            is_new = row.pid is not None and row.pid != after
            return (
                row.pid
                if is_new and row.state == "ready" and row.process and row.process.is_alive()
                else None
            )

        return wait_for(
            found, within_s=within_s, what=f"{service} ready again; log:\n{self.log(service)[-1500:]}"
        )


def wait_for(find: Callable[[], T | None], *, within_s: float = 60, what: str = "the condition") -> T:
    """The first truthy answer of `find`, asked four times a second; fails the test when there is none in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if answer := find():
            return answer
        time.sleep(0.25)
    pytest.fail(f"after {within_s:g} s still waiting for {what}")
