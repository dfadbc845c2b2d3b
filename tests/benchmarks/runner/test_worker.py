"""The runner worker: a real Celery process with the embedded broker and its rules, against a platform of HTTP."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gainshare.local.broker import CONTROL_USER, RUNNER_USER, Broker
from tests.benchmarks.runner.runner_platform import ROOT, Platform, client, platform, settings_env, wait_until

__all__ = ["client", "platform"]  # fixtures


class Worker:
    """`celery -A benchmarks.worker worker` as the supervisor starts it, with the embedded broker and its rules."""

    def __init__(self, folder: Path, platform: Platform, **env: str) -> None:
        self.folder = folder
        self.broker = Broker(
            data=folder / "valkey",
            sockets=folder,
            control_password="control-word",
            runner_password="runner-word",
            queue="runner.cpu",
        )
        self.broker.data.mkdir()
        self.broker.prepare()
        self.valkey = subprocess.Popen(self.broker.argv, stdout=subprocess.DEVNULL)
        wait_until(self.broker.is_ready, timeout_s=20, what="the broker")
        self.env = {
            "PATH": os.environ["PATH"],
            **settings_env(folder, GAINSHARE_URL=platform.url),
            "GAINSHARE_RUNNER_BROKER_URL": self.broker.url(RUNNER_USER),
            **env,
        }
        self.log = folder / "worker.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.worker", "worker", "--loglevel", "INFO"]
        argv += [
            "-Q",
            "runner.cpu",
            "--concurrency",
            "1",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                argv, env=self.env, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def wake(self, run_id: str) -> None:
        """What the platform sends, with the control plane's own rights."""
        from celery import Celery

        with Celery("control", broker=self.broker.url(CONTROL_USER)) as control:
            control.send_task(
                "benchmarks.worker.run_job", args=[run_id], queue="runner.cpu", ignore_result=True
            )

    def close(self) -> None:
        for process in (self.process, self.valkey):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@pytest.fixture
def workers(short_folder: Path) -> Iterator[Callable[..., Worker]]:
    short_folder.chmod(0o711)
    started: list[Worker] = []

    def start(platform: Platform, **env: str) -> Worker:
        started.append(Worker(short_folder, platform, **env))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.mark.sandbox
@pytest.mark.timeout(240)
def test_a_woken_worker_judges_and_a_killed_pool_process_starts_over(
    platform: Platform, workers: Callable[..., Worker], short_folder: Path
) -> None:
    """kill -9 before the evidence is posted: the next attempt continues from the pairs that the first one posted."""
    faults = short_folder / "faults"
    faults.mkdir()
    platform.is_lent = True  # its device is on loan, so it gives it back after the run
    worker = workers(platform, GAINSHARE_FAULT="runner.before_evidence", GAINSHARE_FAULT_DIR=str(faults))
    wait_until(lambda: worker.says(" ready."), timeout_s=90, what="the worker is ready")
    assert worker.says("attacks contained")
    worker.wake(platform.run["id"])
    wait_until((faults / "runner.before_evidence").exists, timeout_s=90, what="the fault has struck")
    assert platform.evidence == []
    posted = [record["digest"] for record in platform.pairs]  # control pairs, where they came first

    wait_until(lambda: platform.requeue_if_lost(), timeout_s=30, what="the lease ran out")
    worker.wake(platform.run["id"])
    wait_until(lambda: platform.state == "finished", timeout_s=90, what="the second attempt")
    wait_until(lambda: platform.returns == 1, timeout_s=20, what="the device is given back")
    (sealed,) = platform.evidence
    assert [attempt for attempt, _ in platform.commitments] == [1, 2]
    assert len({commitment for _, commitment in platform.commitments}) == 2
    assert [record["digest"] for record in sealed["document"]["continues"]] == posted
    assert sealed["document"]["run"]["nonce"] == platform.nonce
    assert sealed["document"]["commitment"] == platform.commitments[-1][1]
    assert "NOPERM" not in worker.log.read_text()  # the broker's rules let it do all that it tries
    assert samples_of(worker.process.pid) == []


@pytest.mark.sandbox
def test_a_worker_with_bad_settings_says_so_and_does_not_start(
    platform: Platform, workers: Callable[..., Worker]
) -> None:
    worker = workers(platform, GAINSHARE_RUNNER_KEY_FILE="/nowhere/key.pem")
    assert worker.process.wait(60) != 0
    assert worker.says("GAINSHARE_RUNNER_KEY_FILE") and not worker.says(" ready.")


def samples_of(ancestor: int) -> list[int]:
    """Processes below `ancestor` that run a sandbox."""
    parents, sandboxes = {}, []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if "bwrap" in (path / "cmdline").read_text(errors="replace"):
                    sandboxes.append(int(path.name))
            except (OSError, IndexError):
                continue  # it has just ended
    found = []
    for pid in sandboxes:
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor:
            found.append(pid)
    return found


def test_a_sandbox_that_does_not_hold_stops_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import worker
    from benchmarks.sandbox.selftest.results import Attack

    for name, value in settings_env(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        worker, "self_test", lambda level: [Attack("a", True, ""), Attack("b", False, "got out")]
    )
    with pytest.raises(SystemExit) as stopped:
        worker.check_machine()
    assert stopped.value.code == 3
    monkeypatch.setattr(worker, "self_test", lambda level: [Attack("a", True, "")])
    worker.check_machine()


def test_the_runner_app_can_be_reached_by_its_queue_only() -> None:
    from benchmarks.worker import app

    assert app.conf.worker_enable_remote_control is False
    assert app.conf.worker_send_task_events is False
    assert (app.conf.task_acks_late, app.conf.task_reject_on_worker_lost) == (True, True)
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.task_always_eager is False
    keys = app.conf.broker_transport_options
    assert all(keys[name].startswith("runner.cpu.unacked") for name in keys if name.endswith("_key"))


def test_importing_the_worker_brings_no_site_no_database_and_no_torch() -> None:
    """kombu looks at a helper of Django's where it is installed; of a site there is nothing."""
    code = (
        "import sys, benchmarks.worker; "
        "print([m for m in ('torch', 'gainshare', 'bounty', 'rest_framework', 'django.conf', 'django.db', 'psycopg') "
        "if m in sys.modules])"
    )
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    for extra in ({}, {"DJANGO_SETTINGS_MODULE": "gainshare.config.settings"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=env | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "[]"
