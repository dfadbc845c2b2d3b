"""The process that speaks for an agent: its own user, none of root's rights, and nothing that it says is believed."""

import asyncio
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.sandbox.isolation.identity import sandbox_uid
from gainshare.capacity.agent.exchange import Question, TooLong, Unanswered
from gainshare.capacity.agent.frames import MAX_HEAD_BYTES, frame
from gainshare.capacity.agent.outside import ENDED, SLOT, Connection, Outside, OutsideEnded
from tests.gainshare.capacity.agent.agent_world import ROOT, AgentProcess, eventually
from tests.gainshare.capacity.agent.fake_site import TOKEN, FakeSite, fake_site
from tests.needs import only_root

pytestmark = pytest.mark.timeout(300)
MOST = 100


@pytest.fixture
def agent(site: FakeSite, open_folder: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(site.url, open_folder, TOKEN)
    yield made
    made.close()


def outside_of(agent: AgentProcess) -> psutil.Process:
    """The process that speaks for a running agent: its only child from the start."""
    assert agent.process is not None
    eventually(lambda: "the site answers" in agent.said, agent.said, 60)
    return min(psutil.Process(agent.process.pid).children(), key=lambda child: child.pid)


def has_ended(process: psutil.Process) -> bool:
    """Also while no one has asked for its status."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# -- a real agent ------------------------------------------------------------------------------------


@only_root
def test_it_has_a_user_of_its_own_and_no_rights(agent: AgentProcess) -> None:
    agent.start()
    outside = outside_of(agent)
    assert agent.process is not None
    uid = str(sandbox_uid(SLOT, pid=agent.process.pid))
    seen = status_of(outside.pid)
    assert seen["Uid"].split() == seen["Gid"].split() == [uid] * 4 and seen["Groups"] == ""
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert seen["NoNewPrivs"] == "1"
    assert outside.cwd() == "/"
    assert {file.fd for file in outside.open_files()} <= {0, 1, 2}


def test_only_it_has_connections(agent: AgentProcess, site: FakeSite) -> None:
    agent.start()
    outside = outside_of(agent)
    assert agent.process is not None
    both = [psutil.Process(agent.process.pid), outside]
    seen: list[list[int]] = []

    def look(port: int) -> None:
        connections = {process.pid: process.net_connections("inet") for process in both}
        assert not connections[both[0].pid]
        seen.append([pid for pid, found in connections.items() if port in {one.laddr.port for one in found}])

    site.on_beat = look
    eventually(lambda: len(seen) >= 10, agent.said, 60)
    assert seen[:10] == [[outside.pid]] * 10


def test_it_ends_with_a_killed_agent(agent: AgentProcess) -> None:
    agent.start()
    outside = outside_of(agent)
    assert not has_ended(outside)
    agent.kill()
    assert eventually(lambda: has_ended(outside), "it runs", 10)


@pytest.mark.sandbox
@pytest.mark.slow
def test_when_it_is_killed_the_agent_ends_and_the_next_one_adopts_its_nodes(
    agent: AgentProcess, site: FakeSite
) -> None:
    agent.start()
    node = site.order()
    eventually(lambda: site.ended or site.is_ready(node), agent.said)
    assert site.ended == {}
    outside_of(agent).kill()
    assert agent.wait(30) == 5
    assert ENDED in agent.said and "Traceback" not in agent.said
    assert agent.device().is_held()
    n_beats = len(site.beats)
    agent.start()
    eventually(lambda: len(site.beats) > n_beats and site.is_ready(node), agent.said, 60)
    assert site.ended == {}


def test_a_terminals_interrupt_leaves_the_agent_its_last_words(agent: AgentProcess, site: FakeSite) -> None:
    agent.start()
    outside = outside_of(agent)
    for pid in (outside.pid, agent.process.pid if agent.process else 0):
        os.kill(pid, signal.SIGINT)
    assert agent.wait(30) == 0
    assert site.beats[-1]["n_devices"] == 0
    assert not outside.is_running()


def test_the_token_is_in_no_command_line_and_no_message(agent: AgentProcess) -> None:
    agent.start()
    outside = outside_of(agent)
    assert TOKEN not in " ".join(outside.cmdline()) and TOKEN not in agent.said


def test_a_site_with_a_certificate_is_spoken_with(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a user that may not read the installation, if root's home has it: all that TLS needs was read before."""
    certificate = tmp_path / "certificate.pem"
    with fake_site(tls=own_certificate(certificate)) as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        agent = AgentProcess(site.url, open_folder, TOKEN).start()
        try:
            outside_of(agent)
            eventually(lambda: len(site.beats) > 5 and site.keys, agent.said, 60)
            assert site.url.startswith("https://") and "the site is absent" not in agent.said
        finally:
            agent.close()


REFUSED = """
import sys
from gainshare.capacity.agent import speaking
from gainshare.capacity.agent.__main__ import main

def refused(uid, parent):
    raise PermissionError("no other user for you")

speaking._become = refused
sys.exit(main())
"""


def test_without_giving_up_its_rights_it_speaks_with_no_one_and_says_why(
    site: FakeSite, open_folder: Path
) -> None:
    (open_folder / "token").write_text(TOKEN)
    where = ["--token-file", str(open_folder / "token"), "--folder", str(open_folder / "agent")]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, "--url", site.url, *where],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 5
    assert "no other user for you" in done.stderr and ENDED in done.stderr
    assert site.beats == []


def own_certificate(file: Path) -> ssl.SSLContext:
    """A server's certificate for localhost that no authority signed, written to a file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(plain + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


# -- what it says ------------------------------------------------------------------------------------


def heard(say: Callable[[socket.socket], None], n_questions: int = 1) -> list[Any]:
    """What questions come to where the process outside says what `say` does; OutsideEnded comes last."""
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["sleep", "60"])

    async def ask() -> list[Any]:
        connection = Connection(Outside(child.pid, ours))
        await connection.open()
        question = Question("GET", "http://site/", "secret", MOST)
        asked: list[Awaitable[Any]] = [
            asyncio.ensure_future(connection.site.ask(question)) for _ in range(n_questions)
        ]
        listening = asyncio.ensure_future(connection.listen())
        await asyncio.sleep(0)
        await asyncio.to_thread(say, theirs)
        theirs.close()
        found = await asyncio.gather(*asked, listening, return_exceptions=True)
        child.kill()
        await connection.aclose()
        return found

    try:
        return asyncio.run(asyncio.wait_for(ask(), 30))
    finally:
        child.kill()


def test_answers_reach_their_askers_in_any_order() -> None:
    def say(end: socket.socket) -> None:
        end.sendall(frame({"number": 1, "why": "ConnectError"}))
        end.sendall(frame({"number": 2, "why": "long", "is_too_long": True}))
        end.sendall(frame({"number": 0, "status": 200}, b"x" * MOST))

    first, second, third, end = heard(say, 3)
    assert first == (200, b"x" * MOST)
    assert isinstance(second, Unanswered) and str(second) == "ConnectError"
    assert isinstance(third, TooLong) and isinstance(end, OutsideEnded)


@pytest.mark.parametrize(
    "said",
    [
        frame({"number": 0, "status": 200}, b"x" * (MOST + 1)),
        frame({"number": 7, "status": 200}),
        frame({"number": "0", "status": 200}),
        frame({"status": 200}),
        struct.pack(">II", MAX_HEAD_BYTES + 1, 0),
        struct.pack(">II", 2**32 - 1, 2**32 - 1),
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 2, 0) + b"\xff\xff",
        struct.pack(">II", 20_000, 0) + b"[" * 20_000,
        b"\0",
        b"",
    ],
    ids=["longer", "no question", "text", "no number", "long head", "huge", "a list", "no JSON", "deep", "cut", "nothing"],
)  # fmt: skip
def test_what_no_exchange_gives_ends_the_agent(said: bytes) -> None:
    began = time.monotonic()
    answer, end = heard(lambda other: other.sendall(said))
    assert isinstance(answer, Unanswered) and isinstance(end, OutsideEnded)
    assert "secret" not in f"{answer}{end}" and time.monotonic() - began < 20


def test_an_answer_twice_is_one_too_many() -> None:
    told = frame({"number": 0, "status": 200}, b"{}")
    answer, end = heard(lambda other: other.sendall(told + told))
    assert answer == (200, b"{}") and isinstance(end, OutsideEnded)


def test_what_is_no_status_is_no_answer() -> None:
    for status in ("200", None, [200], {"a": 1}):
        answer, _ = heard(lambda other, status=status: other.sendall(frame({"number": 0, "status": status})))
        assert isinstance(answer, Unanswered), status
