"""Executes the start plan of the local stack, then keeps its processes running until it is told to stop.

One thread with one loop starts the children (their death signal depends on this thread), handles them in
turn, and stops them in reverse order. They always end with the supervisor: by an orderly stop here, or after
a SIGKILL by their death signals and the guardian.
"""

import contextlib
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType

from gainshare.local.disk import LOW_FREE_BYTES, NEEDED_FREE_BYTES, free_space_problem
from gainshare.local.errors import LocalModeError
from gainshare.local.paths import Home
from gainshare.local.services import LocalStack, StackOptions
from gainshare.local.state import ServiceState, StackState, boot_id, held_home, read_state, write_state
from gainshare.local.supervision import processes
from gainshare.local.supervision.guardian import dismiss, start_guardian
from gainshare.local.supervision.logs import tail
from gainshare.local.supervision.managed import Managed
from gainshare.local.supervision.spec import PlanItem, ServiceSpec, Step, services_of

TICK_S = 0.1
DISK_LOOK_EVERY_S = 5.0
FIRST_START_FAILURES = 3  # a service that dies this often before it was ever ready makes the start fail

Say = Callable[[str], None]


class Stopped(Exception):
    """The supervisor was told to stop while the stack was still starting."""


class Supervisor:
    """Supervisor of one stack on one home. `say` gets lines of text; `on_ready` is called when all is ready."""

    def __init__(
        self,
        home: Home,
        options: StackOptions,
        *,
        say: Say,
        on_ready: Callable[[StackState], None],
        create: Callable[[Home, StackOptions, str], LocalStack] = LocalStack.create,
    ) -> None:
        self._home = home
        self._options = options
        self._say = _unfailing(say)
        self._on_ready = on_ready
        self._create = create
        self._stop = threading.Event()
        self._groups: list[list[Managed]] = []
        self._written: dict[str, object] = {}
        self._looked_at_disk_at = 0.0

    def run(self) -> None:
        """Start all services, keep them running, and return after SIGINT or SIGTERM. Raises LocalModeError."""
        self._home.create_root()
        with held_home(self._home), self._signals():
            clean_up_after_dead(self._home)
            if problem := free_space_problem(self._home, NEEDED_FREE_BYTES):
                raise LocalModeError(problem, code="disk_full")
            tag = f"{self._home.digest}.{secrets.token_hex(6)}"
            stack = self._create(self._home, self._options, tag)
            self._state = self._first_state(stack)
            guardian = start_guardian(tag)
            try:
                self._bring_up(stack.plan())
                self._state.phase = "ready"
                self._write()
                self._on_ready(self._state)
                while not self._stop.wait(TICK_S):
                    self._tend()
            except Stopped:
                self._state.detail = ""
            except LocalModeError as error:
                self._state.detail = str(error)
                raise
            finally:
                self._shut_down()
                dismiss(guardian)

    @property
    def _services(self) -> list[Managed]:
        return [service for group in self._groups for service in group]

    def _bring_up(self, plan: list[PlanItem]) -> None:
        self._state.services = {spec.name: ServiceState() for spec in services_of(plan)}
        for item in plan:
            if isinstance(item, Step):
                self._announce(item.name)
                item.run()
                self._tend()
            else:
                self._bring_up_services((item,) if isinstance(item, ServiceSpec) else item)
            if self._stop.is_set():
                raise Stopped
        self._state.detail = ""

    def _bring_up_services(self, specs: tuple[ServiceSpec, ...]) -> None:
        """Start all services of a stage, then wait until each is ready."""
        waiting: list[Managed] = []
        self._groups.append([])
        for spec in specs:
            service = Managed(spec, self._home.logs, self._say)
            self._groups[-1].append(service)
            if spec.unavailable:
                self._say(f"{spec.name} is not started: {spec.unavailable}")
                continue
            self._announce(spec.name)
            service.start()
            waiting.append(service)
        began = time.monotonic()
        while waiting:
            self._tend()
            for service in [service for service in waiting if service.is_ready]:
                self._say(f"{service.spec.name} is ready after {time.monotonic() - began:.1f} s")
                waiting.remove(service)
            if waiting:
                self._state.detail = waiting[0].spec.name
                self._require_startable(waiting)
                if self._stop.wait(TICK_S):
                    raise Stopped

    def _require_startable(self, waiting: list[Managed]) -> None:
        for service in waiting:
            if service.failures >= FIRST_START_FAILURES:
                raise LocalModeError(
                    f"{service.spec.name} does not start: it {service.state.detail}. Its log {service.log} ends "
                    f"with:\n{tail(service.log)}",
                    code="service_failed",
                )

    def _announce(self, name: str) -> None:
        self._say(f"{name} ...")
        self._state.detail = name
        self._write()

    def _tend(self) -> None:
        for service in self._services:
            if not service.spec.unavailable:
                service.tend()
        if time.monotonic() - self._looked_at_disk_at > DISK_LOOK_EVERY_S:
            self._looked_at_disk_at = time.monotonic()
            self._warn(free_space_problem(self._home, LOW_FREE_BYTES) or "")
        self._write()

    def _warn(self, warning: str) -> None:
        if warning and not self._state.warning:
            self._say(f"warning: {warning}")
        self._state.warning = warning

    def _shut_down(self) -> None:
        self._state.phase = "stopping"
        self._write()
        for group in reversed(self._groups):
            for service in group:
                service.ask_to_stop()
            for service in group:
                service.stop()
        self._state.phase = "failed" if self._state.detail else "stopped"
        self._write()
        shutil.rmtree(self._home.run, ignore_errors=True)

    def _first_state(self, stack: LocalStack) -> StackState:
        me = processes.ProcessId.of(os.getpid())
        if me is None:
            raise LocalModeError("this machine has no /proc: local mode runs only on Linux")
        return StackState(
            url=self._options.url,
            model=self._options.model,
            home=str(self._home.root),
            run_folder=str(self._home.run),
            supervisor=me,
            boot_id=boot_id(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            node_url=self._options.node_url,
            sandbox={
                "level": self._options.sandbox_level,
                "problem": self._options.sandbox_problem,
                "node": "" if self._options.model == "none" else self._options.node_level,
            },
            sockets={"postgres": str(stack.cluster.sockets), "valkey": str(stack.broker.socket)},
            files={
                "admin_password": str(stack.secrets.admin_password),
                "admin_key": str(stack.secrets.admin_key),
                "node_token": str(stack.secrets.node_token),
                "logs": str(self._home.logs),
                "database": str(stack.cluster.data),
            },
        )

    def _write(self) -> None:
        """Write the state if it changed. On a full disk the error is ignored, and the next change tries again."""
        for service in self._services:
            self._state.services[service.spec.name] = service.state
        document = self._state.to_json()
        if document != self._written:
            with contextlib.suppress(OSError):
                write_state(self._home, self._state)
                self._written = document

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def on_signal(number: int, frame: FrameType | None) -> None:
            self._stop.set()

        before = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _unfailing(say: Say) -> Say:
    """Wrap `say` so that its errors do not end the stack: on a full disk the log cannot be written."""

    def say_if_possible(line: str) -> None:
        with contextlib.suppress(OSError):
            say(line)

    return say_if_possible


def clean_up_after_dead(home: Home) -> list[int]:
    """End processes that a killed supervisor of this home left, and remove its sockets. The home must be locked.

    Returns the pids that had to be killed.
    """
    killed = processes.kill_all(lambda: processes.tagged(f"{home.digest}."))
    state = read_state(home)
    if state is not None:
        shutil.rmtree(state.run_folder, ignore_errors=True)
        home.state_file.unlink(missing_ok=True)
    return killed
