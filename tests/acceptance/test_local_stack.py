"""The whole local stack: every process is started, seen, restarted after kill -9 and gone after the end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis

from benchmarks.sandbox.accounting.processes import tree
from gainshare.local.supervision.processes import tagged
from tests.acceptance.running_stack import Stack, wait_for
from tests.closed_processes import is_closed_init

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
SERVICES = ("postgres", "valkey", "web", "control", "beat", "node", "runner")


def gainshare(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would, in the stack's environment."""
    return subprocess.run(
        [sys.executable, "-m", "gainshare.cli.main", *arguments],
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def environment_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def test_every_process_is_ready_and_seen_by_status(stack: Stack) -> None:
    done = gainshare(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert state["phase"] == "ready"
    assert {name: row["state"] for name, row in state["services"].items()} == dict.fromkeys(SERVICES, "ready")
    assert state["sandbox"]["level"] in {"bubblewrap", "bubblewrap-user"}
    for row in state["services"].values():
        os.kill(row["pid"], 0)


def test_the_log_with_the_ready_login_is_private(stack: Stack) -> None:
    log = stack.home.root / "supervisor.log"
    assert stack.admin_password in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_status_for_people_names_every_process(stack: Stack) -> None:
    done = gainshare(stack, "status")
    assert done.returncode == 0
    for name in SERVICES:
        assert name in done.stdout
    assert "quarantined" not in done.stdout


def test_status_says_why_nothing_is_judged_and_what_to_do(stack: Stack) -> None:
    """A quarantined runner gets A/A runs alone; without a word in `status` its submissions just wait."""
    (name,) = (row["name"] for row in json.loads(gainshare(stack, "runners", "list", "--json").stdout))
    assert gainshare(stack, "runners", "quarantine", name, "--reason", "a test").returncode == 0
    try:
        said = gainshare(stack, "status").stdout
        assert f"the runner {name} is quarantined (maintainer), so it judges nothing" in said
        assert f"gainshare runners release {name} --reason TEXT" in said
        (line,) = json.loads(gainshare(stack, "status", "--json").stdout)["quarantined"]
        assert name in line
    finally:
        done = gainshare(stack, "runners", "release", name, "--reason", "a test")
    assert done.returncode == 0
    assert json.loads(gainshare(stack, "status", "--json").stdout)["quarantined"] == []


def test_the_runner_process_has_no_way_to_the_database(stack: Stack) -> None:
    environment = environment_of(stack.pid("runner"))
    assert "DATABASE_URL" not in environment
    assert "BROKER_URL" not in environment
    assert not any("postgresql://" in value for value in environment.values())


def test_the_model_node_has_no_network_and_no_secret_but_its_token(stack: Stack) -> None:
    """All that runs below its starter, where this machine has a sandbox."""
    if not stack.state().sandbox["level"]:
        pytest.skip("no sandbox works on this machine")
    below = [stat.pid for stat in tree(stack.pid("node")) if stat.pid != stack.pid("node")]
    own = Path("/proc/self/ns/net").readlink()
    inside = [pid for pid in below if Path(f"/proc/{pid}/ns/net").readlink() != own]
    readable = [pid for pid in inside if not is_closed_init(pid)]
    assert readable
    token = Path(stack.state().files["node_token"]).read_text().strip()
    for pid in readable:
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert token not in environment and "postgresql://" not in environment
        assert "GAINSHARE_SECRET" not in environment and "GAINSHARE_STACK" not in environment


def test_the_runners_own_credentials_do_not_open_the_control_queue(stack: Stack) -> None:
    environment = environment_of(stack.pid("runner"))
    user, _, rest = environment["GAINSHARE_RUNNER_BROKER_URL"].removeprefix("redis+socket://").partition(":")
    password, _, socket = rest.partition("@")
    client = redis.Redis(unix_socket_path=socket, username=user, password=password)
    assert client.ping()
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.lpush("control", "x")
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.brpop(["control"], timeout=1)


def test_commands_find_the_stack_and_its_key_by_themselves(stack: Stack) -> None:
    account = json.loads(gainshare(stack, "credits", "--json").stdout)
    assert set(account["balance"]) == {"available", "held", "unvested", "owed"}
    audit = gainshare(stack, "audit", "--json")
    assert audit.returncode == 0, audit.stdout
    invariants = json.loads(audit.stdout)["invariants"]
    assert len(invariants) >= 10
    assert all(row["holds"] for row in invariants)


def test_chat_streams_an_answer_and_the_credits_pay_for_it(stack: Stack) -> None:
    poor = gainshare(stack, "chat", "hello", "--json", "--key", new_key(stack, "poor"))
    assert poor.returncode == 1
    assert "credits" in json.loads(poor.stdout)["error"]["message"]
    with stack.client() as admin:
        fund = {"amount_microcredits": 50_000_000, "memo": "chat"}
        assert admin.post("treasury/fund/", json=fund).status_code == 201
        key = new_key(stack, "rich")
        grant = {"username": "rich", "amount_microcredits": 20_000_000, "source": "grant"}
        assert admin.post("grants/", json=grant).status_code == 201
    done = gainshare(stack, "chat", "hello", "--max-tokens", "8", "--json", "--key", key)
    assert done.returncode == 0, done.stdout + stack.log("web")[-2000:]
    answer = json.loads(done.stdout)
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] <= 8
    assert answer["request_id"]
    left = json.loads(gainshare(stack, "credits", "--json", "--key", key).stdout)["balance"]
    assert 0 < left["available"] < 20_000_000
    assert left["held"] == 0


def new_key(stack: Stack, name: str) -> str:
    """Sign up and make a key that may read and use models."""
    password = "a-long-enough-pass"
    with httpx.Client(base_url=f"{stack.url}/api/v1/", timeout=60) as visitor:
        assert visitor.post("users/", json={"username": name, "password": password}).status_code == 201
        body = {"name": "x", "scopes": ["read", "inference"]}
        made: str = visitor.post("keys/", json=body, auth=(name, password)).json()["key"]
    return made


def test_a_second_up_says_where_the_first_one_is(stack: Stack) -> None:
    done = gainshare(stack, "up", "--port", "1024", "--detach", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "already_running"
    assert stack.url in error["message"]
    assert "gainshare down" in error["message"]


@pytest.mark.parametrize("service", ["beat", "control", "node", "web", "valkey", "postgres", "runner"])
def test_a_killed_process_comes_back_and_the_site_answers(stack: Stack, service: str) -> None:
    killed = stack.kill(service)
    fresh = stack.wait_ready(service, after=killed)
    assert fresh != killed
    with stack.client() as client:
        for _ in range(40):  # the web process reconnects on its next request
            try:
                answer = client.get("credits/")
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                break
        assert answer.status_code == 200, stack.log("web")[-2000:]
    assert f"{service} ended with signal 9" in (stack.home.root / "supervisor.log").read_text()


def test_data_outlive_a_stop_and_nothing_else_does(start_stack: Callable[..., Stack]) -> None:
    own = start_stack(model="none")
    with own.client() as client:
        assert (
            client.post("users/", json={"username": "keeper", "password": "a-long-enough-pass"}).status_code
            == 201
        )
    key = own.key
    services = own.state().services
    assert "node" not in services
    down = gainshare(own, "down", "--json")
    assert json.loads(down.stdout)["stopped"] is True
    assert tagged(f"{own.home.digest}.") == []
    assert not own.home.run.exists()
    assert gainshare(own, "status").returncode == 1

    own.start()
    assert own.key == key
    with own.client() as client:
        again = client.post("users/", json={"username": "keeper", "password": "a-long-enough-pass"})
        assert again.status_code == 409
        assert client.get("users/me/").json()["username"] == "admin"
    supervisor = own.state().supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.is_alive(), what="the supervisor's end")
    own.start()  # right after a kill -9: leftovers are cleaned up, no data is lost
    assert own.state().supervisor.pid != supervisor.pid
    with own.client() as client:
        assert client.get("users/me/").status_code == 200
