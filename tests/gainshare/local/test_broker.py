"""The embedded broker: the runner's user reaches its own queue and nothing else; the journal survives kill -9."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from gainshare.local.broker import CONTROL_USER, RUNNER_USER, Broker, access_rules, runner_keys

pytestmark = pytest.mark.slow

PASSWORDS = {CONTROL_USER: "c/@:%", RUNNER_USER: "r@/%:x"}
QUEUE = "runner.cpu"
WORKER = """
import os
from celery import Celery

app = Celery("judge", broker=os.environ["BROKER"])
app.conf.update(
    task_default_queue="runner.cpu", task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True,
    worker_prefetch_multiplier=1, worker_enable_remote_control=False, worker_send_task_events=False,
    broker_transport_options={
        "visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
        "unacked_key": "runner.cpu.unacked", "unacked_index_key": "runner.cpu.unacked_index",
        "unacked_mutex_key": "runner.cpu.unacked_mutex",
    },
)

@app.task(name="judge.run")
def run(marker, seconds):
    with open(marker, "a") as file:
        file.write(f"{os.getpid()}\\n")
    import time
    time.sleep(seconds)
"""


def eventually(holds: Callable[[], bool], *, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return holds()


class RunningBroker:
    """A real server, with clients for both users."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker(
            data=folder,
            sockets=folder,
            control_password=PASSWORDS[CONTROL_USER],
            runner_password=PASSWORDS[RUNNER_USER],
            queue=QUEUE,
        )
        self.start()

    def start(self) -> None:
        self.broker.prepare()
        with (self.broker.data / "log").open("ab") as log:
            self.process = subprocess.Popen(self.broker.argv, stdout=log, stderr=log)
        assert eventually(self.broker.is_ready), (self.broker.data / "log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, user: str) -> "redis.Redis[str]":
        return redis.Redis(
            unix_socket_path=str(self.broker.socket),
            username=user,
            password=PASSWORDS[user],
            decode_responses=True,
        )


@pytest.fixture
def running(short_folder: Path) -> Iterator[RunningBroker]:
    server = RunningBroker(short_folder)
    yield server
    server.kill()


def test_url_carries_user_and_password_of_any_characters(running: RunningBroker) -> None:
    for user in (CONTROL_USER, RUNNER_USER):
        with Celery(broker=running.broker.url(user)).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            assert connection.default_channel.client.execute_command("PING")
    assert urlsplit(running.broker.url()).scheme == "redis+socket"


def test_no_one_gets_in_without_a_password(running: RunningBroker) -> None:
    stranger = redis.Redis(unix_socket_path=str(running.broker.socket))
    with pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    guesser = redis.Redis(unix_socket_path=str(running.broker.socket), username=RUNNER_USER, password="guess")
    with pytest.raises(redis.exceptions.AuthenticationError):
        guesser.ping()


def test_socket_and_access_rules_are_private_and_hold_no_password(running: RunningBroker) -> None:
    rules = running.broker.data / "users.acl"
    assert rules.stat().st_mode & 0o777 == 0o600
    assert running.broker.socket.stat().st_mode & 0o777 == 0o700
    for password in PASSWORDS.values():
        assert password not in rules.read_text()
        assert not any(password in word for word in running.broker.argv)


CONTROL_STATE = [
    "control",
    "control\x06\x163",
    "unacked",
    "unacked_index",
    "unacked_mutex",
    "_kombu.binding.control",
]
OTHER_RUNNER = ["runner.gpu", "runner.gpu.unacked", "runner.cpuX", "runner.cp", "_kombu.binding.runner.gpu"]


@pytest.mark.parametrize("key", [*CONTROL_STATE, *OTHER_RUNNER])
def test_runner_can_neither_read_nor_write_what_is_not_its_own(running: RunningBroker, key: str) -> None:
    runner = running.client(RUNNER_USER)
    attempts: list[Callable[[], object]] = [
        lambda: runner.lpush(key, "x"),
        lambda: runner.rpush(key, "x"),
        lambda: runner.rpop(key),
        lambda: runner.brpop(key, timeout=1),
        lambda: runner.llen(key),
        lambda: runner.hget(key, "x"),
        lambda: runner.hset(key, "x", "y"),
        lambda: runner.hdel(key, "x"),
        lambda: runner.zadd(key, {"x": 1}),
        lambda: runner.zrange(key, 0, -1),
        lambda: runner.sadd(key, "x"),
        lambda: runner.smembers(key),
        lambda: runner.get(key),
        lambda: runner.set(key, "x"),
        lambda: runner.delete(key),
        lambda: runner.exists(key),
        lambda: runner.eval("return redis.call('LPUSH', KEYS[1], 'x')", 1, key),
        lambda: runner.eval(f"return redis.call('LPUSH', '{key}', 'x')", 0),
        lambda: runner.eval("return redis.call('RPOP', KEYS[1])", 1, key),
    ]
    for attempt in attempts:
        with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|can't access"):
            attempt()
    assert running.client(CONTROL_USER).exists(key) == 0


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "CONFIG GET *",
        "ACL LIST",
        "ACL SETUSER runner ~*",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "MONITOR",
        "FLUSHALL",
        "FLUSHDB",
        "SHUTDOWN NOSAVE",
        "PUBLISH /0.celery.pidbox x",
        "SUBSCRIBE x",
        "RENAME runner.cpu control",
        "COPY runner.cpu control",
        "LMOVE runner.cpu control LEFT LEFT",
        "RPOPLPUSH runner.cpu control",
        "MIGRATE h 1 runner.cpu 0 1",
        "REPLICAOF NO ONE",
        "DUMP runner.cpu",
        "SWAPDB 0 1",
        "FUNCTION LIST",
    ],
)
def test_runner_may_not_administer_listen_or_move(running: RunningBroker, command: str) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission"):
        running.client(RUNNER_USER).execute_command(*command.split())


def test_the_control_user_may_use_every_queue(running: RunningBroker) -> None:
    control = running.client(CONTROL_USER)
    for key in ("control", QUEUE):
        assert control.lpush(key, "x") == 1
        assert control.rpop(key) == "x"


def test_key_patterns_name_one_queue_only() -> None:
    assert all(QUEUE in pattern for pattern in runner_keys(QUEUE))
    rules = access_rules(control_password="a", runner_password="b", queue=QUEUE).splitlines()
    assert [line.split()[1:3] for line in rules] == [["default", "off"], ["control", "on"], ["runner", "on"]]
    assert "~*" not in rules[2].split()
    assert "&*" not in rules[2].split()


@pytest.fixture
def worker(running: RunningBroker) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Starts real runner workers with the runner's own credentials."""
    folder = running.broker.data
    (folder / "judge.py").write_text(WORKER)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-m", "celery", "-A", "judge", "worker", "-Q", QUEUE, "--concurrency", "1"]
        argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
        env = {"PATH": os.defpath, "BROKER": running.broker.url(RUNNER_USER), "PYTHONPATH": str(folder)}
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                argv, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_real_worker_takes_its_tasks_with_the_runners_credentials(
    running: RunningBroker, worker: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    marker = running.broker.data / "ran"
    worker()
    platform = Celery(broker=running.broker.url(CONTROL_USER))
    for _ in range(3):
        platform.send_task("judge.run", args=[str(marker), 0], queue=QUEUE, ignore_result=True)
    assert eventually(lambda: len(lines(marker)) == 3)
    assert eventually(lambda: running.client(CONTROL_USER).hlen("runner.cpu.unacked") == 0)
    assert "NOPERM" not in (running.broker.data / "worker.log").read_text()


def test_task_of_a_killed_worker_comes_back_after_the_visibility_timeout(
    running: RunningBroker, worker: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    marker = running.broker.data / "ran"
    first = worker()
    platform = Celery(broker=running.broker.url(CONTROL_USER))
    platform.send_task("judge.run", args=[str(marker), 2.5], queue=QUEUE, ignore_result=True)
    assert eventually(lambda: len(lines(marker)) == 1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    worker()
    assert eventually(lambda: len(lines(marker)) >= 2)
    assert "NOPERM" not in (running.broker.data / "worker.log").read_text()


def test_queued_messages_survive_kill_9_of_the_broker(running: RunningBroker) -> None:
    platform = Celery(broker=running.broker.url(CONTROL_USER))
    for number in range(20):
        platform.send_task("judge.run", args=["x", number], queue=QUEUE, ignore_result=True)
    platform.close()
    running.kill()
    running.start()
    assert running.client(CONTROL_USER).llen(QUEUE) == 20
