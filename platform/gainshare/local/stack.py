"""Interface of the local stack: start it in the foreground or background, and stop it.

`gainshare up`, `down`, `status`, `demo` and the acceptance tests use this module.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from benchmarks.commands import dying_of_signals
from benchmarks.sandbox import SandboxUnavailable, best_level
from gainshare.local.errors import LocalModeError
from gainshare.local.paths import STATE_DIRECTORY, Home, is_binaries_copy
from gainshare.local.ports import free_port, require_free
from gainshare.local.services import StackOptions
from gainshare.local.state import AlreadyRunning, StackState, read_state, running_state
from gainshare.local.supervision.logs import tail
from gainshare.local.supervision.processes import ProcessId
from gainshare.local.supervision.supervisor import Supervisor

DEFAULT_PORT = 8000
DEFAULT_MODEL = "smollm2-moe"
READY_TIMEOUT_S = 900.0  # the first start of a model may download it
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


def run_foreground(
    home: Home,
    *,
    port: int,
    model: str,
    say: Callable[[str], None],
    on_ready: Callable[[StackState], None],
    devices: int = 0,
    has_first_node: bool = True,
) -> None:
    """Run the stack in this process until SIGINT or SIGTERM. With devices it is elastic. Raises LocalModeError."""
    require_not_running(home)
    require_free(port)
    level, problem = sandbox_level()
    options = StackOptions(
        port=port,
        model=model,
        node_port=free_port(),
        sandbox_level=level,
        sandbox_problem=problem,
        devices=devices,
        has_first_node=has_first_node,
    )
    Supervisor(home, options, say=say, on_ready=on_ready).run()


def start_background(
    home: Home,
    *,
    port: int,
    model: str,
    env: Mapping[str, str] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    devices: int = 0,
    has_first_node: bool = True,
) -> StackState:
    """Start the stack in a separate process and return when it is ready. Raises LocalModeError with the reason.

    `env` replaces the environment. `on_progress` gets the name of what is being started.
    """
    require_not_running(home)
    require_free(port)
    home.create_root()
    log = home.root / "supervisor.log"
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)  # it will have the login
    outer = {**(os.environ if env is None else env), "GAINSHARE_HOME": str(home.root)}
    argv = [sys.executable, "-m", "gainshare.cli.main", "up", "--port", str(port), "--model", model]
    argv += ["--elastic", "--devices", str(devices)] if devices else ["--no-elastic"]
    argv += [] if has_first_node else ["--no-first-node"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=outer, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    shown = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LocalModeError(f"the local stack did not start:\n{tail(log)}", code="start_failed")
        state = read_state(home)
        if state is not None and state.supervisor.pid == process.pid:
            if state.phase == "ready":
                return state
            if state.detail != shown:
                shown = state.detail
                on_progress(shown)
        time.sleep(POLL_S)
    process.terminate()
    raise LocalModeError(f"the local stack was not ready after {READY_TIMEOUT_S:.0f} s: see {log}")


def stop(home: Home) -> StackState:
    """Stop the running stack and return when all of it has ended. Raises NotRunning, LocalModeError."""
    state = running_state(home)
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while state.supervisor.is_alive():
        if time.monotonic() > deadline:
            raise LocalModeError(
                f"the supervisor (pid {state.supervisor.pid}) has not ended after {STOP_TIMEOUT_S:.0f} s: "
                f"see {home.root / 'supervisor.log'}, or end it with `kill -9 {state.supervisor.pid}`"
            )
        time.sleep(POLL_S)
    return state


def delete_data(home: Home) -> None:
    """Delete all data of this home's stack, which must not be running. Raises LocalModeError."""
    require_not_running(home)
    if home.root.exists() and not home.lock_file.exists():
        raise LocalModeError(
            f"{home.root} was not made by `gainshare up`, so nothing was deleted: check GAINSHARE_HOME",
            code="not_a_home",
        )
    shutil.rmtree(home.run, ignore_errors=True)
    shutil.rmtree(home.root, ignore_errors=True)
    shutil.rmtree(home.outside, ignore_errors=True)
    if STATE_DIRECTORY.exists() and all(is_binaries_copy(entry) for entry in STATE_DIRECTORY.iterdir()):
        shutil.rmtree(STATE_DIRECTORY, ignore_errors=True)  # no other home uses the copied binaries


def require_not_running(home: Home) -> None:
    """Raises AlreadyRunning."""
    state = read_state(home)
    if state is not None and state.is_current():
        raise AlreadyRunning(
            f"a local stack already runs in {home.root} at {state.url} (pid {state.supervisor.pid}): use it, or stop "
            "it with `gainshare down`",
            code="already_running",
        )


def sandbox_level() -> tuple[str, str]:
    """The sandbox level of this machine and "", or "" and the reason why there is none."""
    try:
        with dying_of_signals():
            return best_level().value, ""
    except SandboxUnavailable as error:
        return "", str(error)


def pid_of(state: StackState, service: str) -> int:
    """The pid of a service that runs now. Raises LocalModeError."""
    row = state.services.get(service)
    identity: ProcessId | None = row.process if row is not None else None
    if identity is None or not identity.is_alive():
        raise LocalModeError(f"the service {service} is not running: see `gainshare status`")
    return identity.pid
