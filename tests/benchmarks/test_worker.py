"""The runner worker: its settings, its client, its reporter, and a real Celery worker against a platform of HTTP.

`Platform` here is a real HTTP server with the runner API's rules in memory; the real one is tested with the bounty app.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.device_lock import device_lock
from benchmarks.evidence.signing import generate_key, public_key, save_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.job import Cancellation
from benchmarks.leased_run import carry_out, fetch_blobs
from benchmarks.pairs.quiet import Quiet
from benchmarks.reporter import MAX_LOG_CHARACTERS, Reporter
from benchmarks.runner_client import LeasedRun, LeaseLost, NotLeasable, PlatformError, RunnerClient
from benchmarks.runner_settings import BadRunnerSetting, RunnerSettings
from benchmarks.tree_folders import tree_folders
from benchmarks.trees import BlobStore, Tree, TreeEntry, shipped_tree
from gainshare.local.broker import CONTROL_USER, RUNNER_USER, Broker

TOKEN = "gsr_test"
ROOT = Path(__file__).resolve().parents[2]


class Platform:
    """The runner API in memory: one run at a time, leases, attempts, at most one verdict."""

    def __init__(self, store: BlobStore, base: Tree, candidate: Tree, *, kind: str = "gate") -> None:
        self.store, self.trees = store, {base.hash: base, candidate.hash: candidate}
        self.run = {
            "id": str(uuid.uuid4()),
            "kind": kind,
            "suite": "moe_forward",
            "preset": "tiny",
            "base_tree": base.hash,
            "candidate_tree": candidate.hash,
        }
        self.lease_s = 3
        self.attempt = 0
        self.lease = ""
        self.lease_expires = 0.0
        self.nonce = ""
        self.state = "queued"
        self.commitments: list[tuple[int, str]] = []
        self.beats: list[dict[str, Any]] = []
        self.log = ""
        self.evidence: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.cancel = False
        self.broken = 0  # how many of the next requests are answered with 503
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def requeue_if_lost(self) -> bool:
        """What beat does: a run whose lease ran out is queued again. Whether it was."""
        with self.lock:
            if self.state == "leased" and time.monotonic() > self.lease_expires:
                self.state = "queued"
                return True
            return False

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            if self.broken > 0:
                self.broken -= 1
                return 503, {"error": {"code": "unavailable", "message": "away"}}
            if token != f"Bearer {TOKEN}":
                return 401, {"error": {"code": "invalid_token", "message": "unknown token"}}
            if path == "/api/v1/runner/lease/":
                return self._lease()
            if found := re.fullmatch(r"/api/v1/runner/blobs/([0-9a-f]{64})/", path):
                return 200, self.store.get(found[1])
            call = path.removeprefix(f"/api/v1/runner/runs/{self.run['id']}/").rstrip("/")
            if self.state != "leased" or body.get("lease") != self.lease:
                if call == "evidence" and self.evidence and self.evidence[-1] == body["evidence"]:
                    return 200, {"kind": "repeated"}
                return 409, {"error": {"code": "lease_lost", "message": "somebody else has it"}}
            answer: dict[str, Any] = getattr(self, f"_{call}")(body)
            return 200, answer

    def _lease(self) -> tuple[int, Any]:
        if self.state != "queued":
            return 409, {"error": {"code": "not_leasable", "message": "nothing waits"}}
        self.state, self.attempt, self.lease = "leased", self.attempt + 1, str(uuid.uuid4())
        self.nonce, self.log = uuid.uuid4().hex, ""
        self.lease_expires = time.monotonic() + self.lease_s
        return 200, {
            "run": {**self.run, "nonce": self.nonce, "attempt": self.attempt},
            "lease": self.lease,
            "lease_s": self.lease_s,
            "trees": {name: tree.to_manifest() for name, tree in self.trees.items()},
        }

    def _heartbeat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.beats.append(body)
        self.lease_expires = time.monotonic() + self.lease_s
        return {"cancel": self.cancel, "lease_expires_at": "2026-01-01T00:00:00Z"}

    def _commitment(self, body: dict[str, Any]) -> dict[str, Any]:
        self.commitments.append((self.attempt, body["commitment"]))
        return {}

    def _log(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["offset"] <= len(self.log), "a piece is missing"
        self.log += body["text"][len(self.log) - body["offset"] :]
        return {"next_offset": len(self.log)}

    def _evidence(self, body: dict[str, Any]) -> dict[str, Any]:
        self.evidence.append(body["evidence"])
        self.state = "finished"
        return {"kind": body["evidence"]["document"]["verdict"]["kind"]}

    def _failed(self, body: dict[str, Any]) -> dict[str, Any]:
        self.failures.append(body)
        self.state = "queued"
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size) or b"{}")
                token = self.headers.get("Authorization", "")
                status, answer = platform.answer(self.command, self.path, token, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def broken_candidate(store: BlobStore) -> tuple[Tree, Tree]:
    """The shipped stack and a patch of it that cannot be imported: judged within one pair."""
    shipped = shipped_tree(store)
    text = store.put(b"raise RuntimeError('at import')\n")
    entries = (
        TreeEntry(e.path, e.mode, text if e.path.endswith("layers/moe.py") else e.blob)
        for e in shipped.entries
    )
    return shipped, Tree(tuple(entries))


@pytest.fixture
def platform(open_folder: Path) -> Iterator[Platform]:
    store = BlobStore(open_folder / "platform-blobs")
    server = Platform(store, *broken_candidate(store))
    yield server
    server.close()


@pytest.fixture
def client(platform: Platform) -> Iterator[RunnerClient]:
    connection = RunnerClient(platform.url, TOKEN, timeout_s=5)
    yield connection
    connection.close()


def wait_until(holds: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


# -- settings ----------------------------------------------------------------------------------------


def settings_env(folder: Path, **changes: str) -> dict[str, str]:
    (folder / "token").write_text(TOKEN + "\n")
    if not (folder / "key.pem").exists():
        save_key(generate_key(), folder / "key.pem")
    return {
        "GAINSHARE_URL": "http://127.0.0.1:1/",
        "GAINSHARE_RUNNER_BROKER_URL": "redis://:secret-word@127.0.0.1/0",
        "GAINSHARE_RUNNER_TOKEN_FILE": str(folder / "token"),
        "GAINSHARE_RUNNER_KEY_FILE": str(folder / "key.pem"),
        "GAINSHARE_RUNNER_HOME": str(folder / "home"),
        **changes,
    }


def test_settings_are_read_and_hide_their_secrets(tmp_path: Path) -> None:
    settings = RunnerSettings.from_env(settings_env(tmp_path))
    assert (settings.platform_url, settings.queue) == ("http://127.0.0.1:1", "runner.cpu")
    assert TOKEN not in repr(settings) and "secret-word" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GAINSHARE_URL", ""),
        ("GAINSHARE_URL", "ftp://somewhere"),
        ("GAINSHARE_RUNNER_BROKER_URL", " "),
        ("GAINSHARE_RUNNER_TOKEN_FILE", "/nowhere/token"),
        ("GAINSHARE_RUNNER_KEY_FILE", "/nowhere/key"),
        ("GAINSHARE_RUNNER_HARDWARE", "GPU 1"),
        ("GAINSHARE_RUNNER_HOME", ""),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadRunnerSetting, match=name):
        RunnerSettings.from_env(settings_env(tmp_path, **{name: value}))


def test_a_token_file_with_something_else_is_refused_without_echoing_it(tmp_path: Path) -> None:
    env = settings_env(tmp_path)
    Path(env["GAINSHARE_RUNNER_TOKEN_FILE"]).write_text("hunter2")
    with pytest.raises(BadRunnerSetting) as refused:
        RunnerSettings.from_env(env)
    assert "hunter2" not in str(refused.value)


# -- client ------------------------------------------------------------------------------------------


def test_a_lease_brings_the_run_and_its_verified_trees(platform: Platform, client: RunnerClient) -> None:
    run = client.lease(platform.run["id"])
    assert (run.run_id, run.attempt, run.lease) == (platform.run["id"], 1, platform.lease)
    assert run.trees[run.base_tree].hash == platform.run["base_tree"]
    with pytest.raises(NotLeasable):
        client.lease(platform.run["id"])


def test_manifests_that_do_not_have_their_hash_are_refused(platform: Platform, client: RunnerClient) -> None:
    platform.run["candidate_tree"] = "0" * 64
    with pytest.raises(PlatformError, match="manifest"):
        client.lease(platform.run["id"])


def test_blobs_with_other_content_are_refused(open_folder: Path) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"other"))
    client = RunnerClient("http://platform", TOKEN, transport=transport)
    entry = TreeEntry("model/a.py", 0o644, hashlib.sha256(b"right").hexdigest())
    store = BlobStore(open_folder / "blobs")
    with pytest.raises(PlatformError, match="damaged_blob"):
        fetch_blobs(Tree((entry,)), store, client, Cancellation())
    assert not store.has(entry.blob)


def test_a_platform_that_is_away_for_a_moment_is_asked_again(
    platform: Platform, client: RunnerClient
) -> None:
    platform.broken = 2
    run = client.lease(platform.run["id"])
    platform.broken = 2
    client.commitment(run, "c" * 64)
    assert platform.commitments == [(1, "c" * 64)]
    platform.broken = 1
    with pytest.raises(
        PlatformError, match="unreachable"
    ):  # a heartbeat has no patience: the next one follows soon
        client.heartbeat(run, stage="preparing", pairs_done=0, pairs_max=0)


def test_no_connection_is_an_error_that_names_no_secret() -> None:
    client = RunnerClient("http://127.0.0.1:9", TOKEN, timeout_s=1)
    with pytest.raises(PlatformError) as error:
        client._json("GET", "me/", patience_s=0)
    assert error.value.code == "unreachable" and TOKEN not in str(error.value)


def test_a_wrong_token_and_a_lost_lease_are_told_apart(platform: Platform, client: RunnerClient) -> None:
    run = client.lease(platform.run["id"])
    platform.lease = "another"
    with pytest.raises(LeaseLost):
        client.heartbeat(run, stage="preparing", pairs_done=0, pairs_max=0)
    with pytest.raises(PlatformError, match="invalid_token"):
        RunnerClient(platform.url, "gsr_wrong").lease(platform.run["id"])


# -- reporter ----------------------------------------------------------------------------------------


@pytest.fixture
def leased(platform: Platform, client: RunnerClient) -> LeasedRun:
    platform.lease_s = 1
    return client.lease(platform.run["id"])


def test_the_lease_is_renewed_and_progress_and_log_arrive(
    platform: Platform, client: RunnerClient, leased: LeasedRun
) -> None:
    with Reporter(leased, client, Cancellation(), Quiet()) as reporter:
        reporter.on_log("first\n")
        reporter.on_progress("gating", 3, 6)
        wait_until(lambda: len(platform.beats) >= 3, timeout_s=20, what="three heartbeats")
        reporter.on_log("second \N{SNOWMAN}\n")
        reporter.flush(patience_s=5)
    assert platform.log == "first\nsecond \N{SNOWMAN}\n"
    assert {(beat["stage"], beat["pairs_done"], beat["pairs_max"]) for beat in platform.beats} == {
        ("gating", 3, 6)
    }


def test_a_platform_that_is_away_loses_no_log(
    platform: Platform, client: RunnerClient, leased: LeasedRun
) -> None:
    with Reporter(leased, client, Cancellation(), Quiet()) as reporter:
        platform.broken = 3
        reporter.on_log("kept\n")
        wait_until(lambda: platform.log == "kept\n", timeout_s=20, what="the log")
        assert platform.broken == 0


@pytest.mark.parametrize("why", ["lost", "cancelled"])
def test_a_lost_lease_and_a_withdrawal_stop_the_judge(
    platform: Platform, client: RunnerClient, leased: LeasedRun, why: str
) -> None:
    ended, cancellation = threading.Event(), Cancellation()
    cancellation.ends(ended.set)
    with Reporter(leased, client, cancellation, Quiet()) as reporter:
        if why == "lost":
            platform.lease = "another"
        else:
            platform.cancel = True
        assert ended.wait(20)
        assert reporter.on_progress("gating", 1, 6) is True


def test_the_log_is_bounded(platform: Platform, client: RunnerClient, leased: LeasedRun) -> None:
    reporter = Reporter(leased, client, Cancellation(), Quiet())
    for _ in range(20):
        reporter.on_log("x" * (MAX_LOG_CHARACTERS // 10))
    reporter.flush(patience_s=5)
    assert MAX_LOG_CHARACTERS <= len(platform.log) < MAX_LOG_CHARACTERS + 200
    assert platform.log.count("was not kept") == 1


# -- trees and device --------------------------------------------------------------------------------


def test_tree_folders_are_readable_for_everybody_fresh_and_gone_afterwards(open_folder: Path) -> None:
    store = BlobStore(open_folder / "blobs")
    tree = shipped_tree(store)
    leftover = open_folder / "trees" / "of-a-killed-run"
    leftover.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        with tree_folders((tree, tree), store, open_folder / "trees") as folders:
            assert not leftover.exists()
            inner = folders[tree.hash] / "model" / "layers"
            assert inner.stat().st_mode & 0o777 == 0o755
            assert all(path.stat().st_mode & 0o222 == 0 for path in inner.glob("*.py"))
    finally:
        os.umask(before)
    assert not (open_folder / "trees").exists()


def test_a_device_measures_one_thing_at_a_time() -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with device_lock(name, on_wait=waiting.set):
            order.append("second")

    with device_lock(name):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with device_lock(name, on_wait=lambda: pytest.fail("nobody holds it")):
        pass


# -- a leased run ------------------------------------------------------------------------------------


@pytest.mark.sandbox
def test_a_leased_run_ends_with_evidence_that_fits_its_commitment(
    platform: Platform, client: RunnerClient, open_folder: Path
) -> None:
    key = generate_key()
    platform.lease_s = 10
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=key)
    (sealed,) = platform.evidence
    ((attempt, commitment),) = platform.commitments
    trusted = {sealed["signature"]["key_id"]: public_key(key)}
    report = verify_evidence(sealed, trusted_keys=trusted, nonce=platform.nonce, commitment=commitment)
    assert report.ok, report.checks
    assert attempt == 1 and sealed["document"]["run"]["id"] == platform.run["id"]
    assert report.verdict.kind == "build_failed"
    assert "at import" in platform.log and "verdict: build_failed" in platform.log
    assert not (open_folder / "home" / "trees").exists()


@pytest.mark.sandbox
def test_a_run_that_cannot_be_measured_is_reported_as_the_runner_s_failure(
    platform: Platform, client: RunnerClient, open_folder: Path
) -> None:
    platform.run["preset"] = "gigantic"
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=generate_key())
    assert [failure["code"] for failure in platform.failures] == ["UnknownSuite"]
    assert platform.evidence == [] and platform.commitments == []


@pytest.mark.sandbox
def test_a_withdrawn_run_posts_nothing(platform: Platform, client: RunnerClient, open_folder: Path) -> None:
    platform.cancel = True
    platform.lease_s = 1
    shipped = shipped_tree(platform.store)
    platform.trees = {shipped.hash: shipped}
    platform.run |= {"base_tree": shipped.hash, "candidate_tree": shipped.hash, "kind": "aa"}
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=generate_key())
    assert platform.evidence == [] and platform.failures == []


# -- a real Celery worker ----------------------------------------------------------------------------


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
    """kill -9 before the evidence is posted: the redelivered wake-up judges again, under a new attempt."""
    faults = short_folder / "faults"
    faults.mkdir()
    worker = workers(platform, GAINSHARE_FAULT="runner.before_evidence", GAINSHARE_FAULT_DIR=str(faults))
    wait_until(lambda: worker.says(" ready."), timeout_s=90, what="the worker is ready")
    assert worker.says("attacks contained")
    worker.wake(platform.run["id"])
    wait_until((faults / "runner.before_evidence").exists, timeout_s=90, what="the fault has struck")
    assert platform.evidence == []

    wait_until(lambda: platform.requeue_if_lost(), timeout_s=30, what="the lease ran out")
    worker.wake(platform.run["id"])
    wait_until(lambda: platform.state == "finished", timeout_s=90, what="the second attempt")
    (sealed,) = platform.evidence
    assert [attempt for attempt, _ in platform.commitments] == [1, 2]
    assert len({commitment for _, commitment in platform.commitments}) == 2
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
    from benchmarks.sandbox.results import Attack

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
