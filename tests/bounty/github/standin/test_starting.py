"""The stand-in starts on this machine for this machine, and never next to a deployment."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bounty.github.standin.control.standin import running
from bounty.github.standin.local_only import require_local_mode
from gainshare.local.errors import LocalModeError

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    "environment",
    [
        {"GAINSHARE_URL": "https://gainshare.example.org"},
        {"GAINSHARE_URL": "http://10.0.0.7:8000"},
        {"GAINSHARE_URL": "http://localhost.example.org:8000"},
        {"DATABASE_URL": "postgresql://gainshare@db.internal/gainshare"},
        {"DATABASE_URL": "postgresql:///gainshare?host=10.0.0.7"},
        {"DATABASE_URL": "postgresql:///gainshare?host=/run,10.0.0.7"},
    ],
)
def test_it_refuses_beside_a_deployment(environment: dict[str, str]) -> None:
    with pytest.raises(LocalModeError, match="starts in local mode only"):
        require_local_mode(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"GAINSHARE_URL": "http://127.0.0.1:8000", "DATABASE_URL": "postgresql:///gainshare?host=/tmp/x"},
        {"GAINSHARE_URL": "http://[::1]:8000", "DATABASE_URL": "postgresql://u:p@localhost/gainshare"},
    ],
)
def test_it_starts_on_ones_own_machine(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    require_local_mode(environment)  # raises nothing
    with running(tmp_path) as standin:
        assert standin.url.startswith("http://127.0.0.1:")


def test_no_server_is_started_beside_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINSHARE_URL", "https://gainshare.example.org")
    with pytest.raises(LocalModeError), running(tmp_path):
        pass


def test_it_listens_on_the_loopback_interface_alone(tmp_path: Path) -> None:
    with running(tmp_path) as standin:
        assert standin.url.startswith("http://127.0.0.1:")
        port = int(standin.url.rpartition(":")[2])
        others = {row[4][0] for row in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
        for address in others - {"127.0.0.1"}:
            if not address.startswith("127."):
                with pytest.raises(OSError):
                    socket.create_connection((address, port), timeout=2)


def _start(environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "bounty.github.standin", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT,
    )  # fmt: skip


def test_the_program_takes_orders_and_ends(tmp_path: Path) -> None:
    (tmp_path / "files" / "model").mkdir(parents=True)
    (tmp_path / "files" / "model" / "a.py").write_text("a = 1\n")
    program = _start({}, "--root", str(tmp_path / "root"), "--files", str(tmp_path / "files"))
    assert program.stdout is not None
    assert program.stdin is not None
    try:
        told = {}
        while (line := program.stdout.readline().strip()) != "ready":
            assert line, program.communicate()
            name, _, value = line.partition("=")
            told[name] = value
        key = Path(told["GAINSHARE_GITHUB_PRIVATE_KEY_FILE"])
        assert key.stat().st_mode & 0o077 == 0
        assert "PRIVATE KEY" in key.read_text()

        def order(**fields: object) -> dict[str, object]:
            program.stdin.write(json.dumps(fields) + "\n")  # type: ignore[union-attr]
            program.stdin.flush()  # type: ignore[union-attr]
            answer: dict[str, object] = json.loads(program.stdout.readline())  # type: ignore[union-attr]
            return answer

        opened = order(do="open", by="cora", files={"model/a.py": "a = 2\n"}, title="Faster")
        assert opened["pull"] == 1
        assert "comment" in order(do="comment", pull=1, by="cora", body="/judge")
        assert order(do="role", who="mira", role="write") == {}
        assert order(do="merge", pull=1, by="mira", method="squash")["tip"]
        seen = order(do="show", pull=1)
        assert (seen["merged"], seen["comments"]) == (True, [{"by": "cora", "body": "/judge"}])
        assert "error" in order(do="dance")
        assert "error" in order(do="merge", pull=9, by="mira")
    finally:
        program.terminate()
        assert program.wait(20) == 0


def test_the_program_stays_after_its_orders_until_a_signal(tmp_path: Path) -> None:
    program = _start({}, "--root", str(tmp_path / "root"))
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write(json.dumps({"do": "dance"}))  # no end of line
    program.stdin.close()
    while (line := program.stdout.readline().strip()) != "ready":
        assert line
    assert "error" in json.loads(program.stdout.readline())
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.3)
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 0


def test_the_program_refuses_beside_a_deployment(tmp_path: Path) -> None:
    program = _start({"GAINSHARE_URL": "https://gainshare.example.org"}, "--root", str(tmp_path))
    _, said = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "starts in local mode only" in said
    assert "Traceback" not in said
