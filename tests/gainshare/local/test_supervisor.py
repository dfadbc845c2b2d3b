"""The supervisor, with small services: order, restart, back-off, clean stop, and nothing left after kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gainshare.local.errors import LocalModeError
from gainshare.local.paths import Home
from gainshare.local.state import read_state
from gainshare.local.supervision import processes
from gainshare.local.supervision.managed import BACK_OFF_S, Managed, back_off_s
from gainshare.local.supervision.spec import ServiceSpec
from gainshare.local.supervision.supervisor import clean_up_after_dead

pytestmark = pytest.mark.slow

SERVICE = """
import os, pathlib, signal, sys, time
name, journal = sys.argv[1], pathlib.Path(sys.argv[2])
def note(what):
    with journal.open("a") as file: file.write(f"{name} {what}\\n")
def end(*_):
    note("stopped"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("started"); print("hello", flush=True)
time.sleep(600)
"""
CHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
)
SCRIPT = """
import dataclasses, os, signal, sys
from pathlib import Path
from gainshare.local.paths import Home
from gainshare.local.services import LocalStack, StackOptions
from gainshare.local.supervision.spec import ServiceSpec, Step
from gainshare.local.supervision.supervisor import Supervisor
from gainshare.local.errors import LocalModeError

home = Home(Path(os.environ["GAINSHARE_HOME"]))
journal = home.root / "journal"
SERVICE = {service!r}

class SmallStack(LocalStack):
    def plan(self):
        env = self.environments.server() | {{"LANG": "C"}}
        def service(name, code=SERVICE, says="hello", **changes):
            argv = (sys.executable, "-u", "-c", code, name, str(journal))
            spec = ServiceSpec(name=name, argv=argv, env=env, is_ready=lambda log: log(says))
            return dataclasses.replace(spec, **changes)
        return {plan}

supervisor = Supervisor(
    home, StackOptions(port=1, model="none", node_port=1),
    say=lambda line: print(line, flush=True), on_ready=lambda state: print("READY", flush=True),
    create=SmallStack.create,
)
try:
    supervisor.run()
except LocalModeError as error:
    print("FAILED", error, flush=True)
    sys.exit(1)
print("ENDED", flush=True)
"""


def eventually(holds: Callable[[], bool], *, within_s: float = 15) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


class Run:
    """One supervisor in a process of its own."""

    def __init__(self, home: Path, plan: str) -> None:
        self.home = Home(home)
        self.journal = home / "journal"
        self.output = home / "output"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT.format(service=SERVICE, plan=plan)],
                env={**os.environ, "GAINSHARE_HOME": str(home)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text()

    def events(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def wait_ready(self) -> "Run":
        assert eventually(lambda: "READY" in self.text() or self.process.poll() is not None)
        assert "READY" in self.text(), self.text()
        return self

    def service(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self.home.state_file.read_text())["services"][name]
        return row

    def left(self) -> list[int]:
        return processes.tagged(f"{self.home.digest}.")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def launch(open_folder: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def start(plan: str) -> Run:
        runs.append(Run(open_folder, plan))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        processes.kill_all(run.left)
        shutil.rmtree(run.home.run, ignore_errors=True)


def test_services_start_in_order_and_stop_in_reverse(launch: Callable[[str], Run]) -> None:
    run = launch(
        "[service('one'), Step('between', lambda: journal.open('a').write('between\\n')), service('two')]"
    )
    run.wait_ready()
    assert run.events() == ["one started", "between", "two started"]
    assert [run.service(name)["state"] for name in ("one", "two")] == ["ready", "ready"]
    run.stop()
    assert run.process.returncode == 0
    assert run.events()[3:] == ["two stopped", "one stopped"]
    assert run.left() == []
    assert "ENDED" in run.text()
    state = read_state(run.home)
    assert state is not None
    assert state.phase == "stopped"
    assert not state.is_current()
    assert not run.home.run.exists()


def test_services_of_a_group_start_together(launch: Callable[[str], Run]) -> None:
    slow = "import time; time.sleep(1.5); print('hello', flush=True); time.sleep(600)"
    group = ", ".join(f"service('slow{n}', code={slow!r})" for n in range(4))
    began = time.monotonic()
    run = launch(f"[service('one'), ({group})]").wait_ready()
    assert time.monotonic() - began < 6  # one after the other would take more
    assert [run.service(f"slow{n}")["state"] for n in range(4)] == ["ready"] * 4
    run.stop()
    assert run.left() == []


def test_a_killed_service_is_started_again_and_a_line_says_so(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one'), service('two')]").wait_ready()
    before = run.service("two")["pid"]
    untouched = run.service("one")["pid"]
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: run.events().count("two started") == 2)
    assert eventually(lambda: run.service("two")["state"] == "ready")
    after = run.service("two")
    assert after["pid"] != before
    assert after["restarts"] == 1
    assert run.service("one")["pid"] == untouched
    assert "two ended with signal 9; starting it again in 0.2 s" in run.text()
    run.stop()


def test_children_of_a_dead_service_end_with_it(launch: Callable[[str], Run]) -> None:
    code = CHILD + "print('hello', flush=True); time.sleep(600)"
    run = launch(f"[service('pool', code={code!r})]").wait_ready()
    assert len(run.left()) == 2
    first = set(run.left())
    os.kill(run.service("pool")["pid"], signal.SIGKILL)
    assert eventually(
        lambda: run.service("pool")["restarts"] == 1 and run.service("pool")["state"] == "ready"
    )
    assert eventually(lambda: len(run.left()) == 2)
    assert not first & set(run.left())
    run.stop()
    assert run.left() == []


def test_sigint_stops_like_sigterm(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one')]").wait_ready()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(20) == 0
    assert run.left() == []


def test_nothing_survives_kill_9_of_the_supervisor(launch: Callable[[str], Run]) -> None:
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        + CHILD
        + "print('hello', flush=True); time.sleep(600)"
    )
    run = launch(f"[service('one'), service('stubborn', code={stubborn!r})]").wait_ready()
    assert len(run.left()) == 3
    run.process.kill()
    run.process.wait()
    assert eventually(lambda: "one stopped" in run.events())
    assert eventually(lambda: run.left() == [], within_s=20)  # the guardian waits 10 s before it kills


def test_the_next_start_cleans_up_after_a_killed_supervisor(launch: Callable[[str], Run]) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hello', flush=True); time.sleep(600)"
    first = launch(f"[service('stubborn', code={stubborn!r})]").wait_ready()
    leftover = first.service("stubborn")["pid"]
    first.process.kill()
    first.process.wait()
    assert processes.ProcessId.of(leftover) is not None
    second = launch("[service('one')]").wait_ready()
    assert processes.ProcessId.of(leftover) is None
    assert len(second.left()) == 1
    time.sleep(11)  # the first one's guardian acts now, and must not touch the second stack
    assert second.service("one")["restarts"] == 0
    second.stop()


def test_a_second_start_on_the_same_home_says_so(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one')]").wait_ready()
    second = launch("[service('one')]")
    assert second.process.wait(20) == 1
    assert "already runs in" in second.text()
    assert "gainshare down" in second.text()
    assert run.process.poll() is None
    assert run.service("one")["state"] == "ready"
    run.stop()


def test_service_that_never_starts_fails_the_whole_start_with_its_log(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one'), service('bad', code='import sys; sys.exit(\"no such table: shoes\")')]")
    assert run.process.wait(30) == 1
    assert "bad does not start: it ended with exit status 1" in run.text()
    assert "no such table: shoes" in run.text()
    assert run.events() == ["one started", "one stopped"]
    state = read_state(run.home)
    assert state is not None
    assert state.phase == "failed"
    assert "shoes" in state.detail


def test_service_that_hangs_before_it_is_ready_is_started_again(launch: Callable[[str], Run]) -> None:
    run = launch("[service('mute', says='never said', ready_timeout_s=0.3)]")
    assert run.process.wait(30) == 1
    assert run.events().count("mute started") == 3
    assert "mute was not ready after 0.3 s; starting it again in 0.2 s" in run.text()


def test_failing_step_stops_what_was_started(launch: Callable[[str], Run]) -> None:
    run = launch(
        "[service('one'), Step('migrate', lambda: (_ for _ in ()).throw(LocalModeError('no luck')))]"
    )
    assert run.process.wait(20) == 1
    assert "FAILED no luck" in run.text()
    assert run.events() == ["one started", "one stopped"]


def test_stop_while_starting_ends_what_was_started(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one'), service('slow', says='never said')]")
    assert eventually(lambda: "slow started" in run.events())
    run.stop()
    assert run.process.returncode == 0
    assert "READY" not in run.text()
    assert run.left() == []


def test_unavailable_service_stays_out_and_says_why(launch: Callable[[str], Run]) -> None:
    run = launch("[service('runner', unavailable='no user namespaces here'), service('one')]").wait_ready()
    row = run.service("runner")
    assert (row["state"], row["detail"], row["pid"]) == ("unavailable", "no user namespaces here", None)
    assert "runner is not started: no user namespaces here" in run.text()
    assert "runner started" not in run.events()
    run.stop()


def test_state_file_holds_no_secret(launch: Callable[[str], Run]) -> None:
    run = launch("[service('one')]").wait_ready()
    state = run.home.state_file.read_text()
    files = list(run.home.secrets.iterdir())
    assert len(files) >= 6
    for file in files:
        assert file.read_text().strip() not in state
        assert file.stat().st_mode & 0o777 == 0o600
    run.stop()


def test_waits_between_starts_grow_and_stay_bounded() -> None:
    waits = [back_off_s(failures) for failures in range(1, 20)]
    assert waits[0] == BACK_OFF_S[0]
    assert waits == sorted(waits)
    assert waits[-1] == max(BACK_OFF_S) == 30


def test_a_service_that_cannot_be_started_again_is_tried_again(tmp_path: Path) -> None:
    lines: list[str] = []
    attempts = []

    def refuse_second() -> None:
        attempts.append(1)
        if len(attempts) == 2:
            raise LocalModeError("disk full")

    spec = ServiceSpec(
        name="one",
        argv=(sys.executable, "-c", "print('hello', flush=True); import time; time.sleep(60)"),
        env={},
        is_ready=lambda log: log("hello"),
        before_start=refuse_second,
    )
    service = Managed(spec, tmp_path, lines.append)

    def ready() -> bool:
        service.tend()
        return service.is_ready

    service.start()
    assert eventually(ready)
    assert service.state.pid is not None
    os.kill(service.state.pid, signal.SIGKILL)
    assert eventually(lambda: not ready())
    assert eventually(ready)
    assert len(attempts) == 3
    assert any("could not be started: disk full" in line for line in lines)
    assert service.state.restarts == 2
    service.stop()


def test_cleaning_up_where_nothing_ran_changes_nothing(short_folder: Path) -> None:
    assert clean_up_after_dead(Home(short_folder)) == []
