"""A real agent with a site of the test's own: two nodes on a device, each of its own tree, uid and folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from benchmarks.confined_node.folders import berth_seat, node_uid
from tests.gainshare.capacity.agent.agent_world import (
    AgentProcess,
    Overseer,
    eventually,
    node_pid,
    sandboxes,
)
from tests.gainshare.capacity.agent.fake_site import NODE_TOKEN, TOKEN, FakeSite
from tests.gainshare.capacity.agent.tree_making import MARK, changed, installed, speaking

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def agent(site: FakeSite, open_folder: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(site.url, open_folder, TOKEN)
    yield made
    made.close()


def answers(site: FakeSite, device: int = 0, berth: int = 0) -> int:
    report = site.report(device, berth)
    assert report is not None
    headers = {"Authorization": f"Bearer {NODE_TOKEN}"}
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
    url = f"http://127.0.0.1:{report['port']}/v1/completions"
    return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).status_code


def ready(site: FakeSite, agent: AgentProcess, node: UUID) -> None:
    eventually(lambda: site.is_ready(node) or str(node) in site.ended, f"{node}: {agent.said}")
    assert str(node) not in site.ended, site.ended


@pytest.mark.long
def test_a_successor_of_another_tree_serves_beside_the_node_and_both_outlive_the_agent(
    site: FakeSite, agent: AgentProcess, tmp_path: Path
) -> None:
    name = site.offer(*speaking(installed(tmp_path)))
    old = site.order()
    agent.start()
    with Overseer(agent.device(0, 0)) as first, Overseer(agent.device(0, 1)) as second:
        ready(site, agent, old)
        new = site.order(name, berth=1)
        ready(site, agent, new)
        assert answers(site) == answers(site, berth=1) == 200
        assert MARK in agent.device(0, 1).log.read_text() and MARK not in agent.device(0, 0).log.read_text()
        if os.geteuid() == 0:
            owners = [Path(f"/proc/{node_pid(agent.device(0, berth))}").stat().st_uid for berth in (0, 1)]
            assert owners == [node_uid(berth_seat(0, 0)), node_uid(berth_seat(0, 1))]
            assert owners[0] != owners[1]
        tree_is_read_only(agent, name)
        agent.kill()
        n_beats = len(site.beats)
        agent.start()
        eventually(
            lambda: "adopted" in agent.said and any(beat["beat"] == 1 for beat in site.beats[n_beats:]),
            agent.said,
            60,
        )
        ready(site, agent, old)
        ready(site, agent, new)
        site.drain(old)
        eventually(lambda: str(old) in site.ended, agent.said, 60)
        assert "drains" in site.ended[str(old)] and answers(site, berth=1) == 200
        assert sandboxes(agent.device(0, 0)) == set() and site.report(0, 0)["node"] is None  # type: ignore[index]
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        assert len(first.seen) == len(second.seen) == 1
    assert agent.device(0, 1).is_free()


def tree_is_read_only(agent: AgentProcess, name: str) -> None:
    pid = node_pid(agent.device(0, 1))
    mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    (options,) = [words[3] for words in mounts if words[1] == "/node/code"]
    assert "ro" in options.split(",")
    (root,) = [
        words[3]
        for words in map(str.split, Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
        if words[4] == "/node/code"
    ]
    assert root.endswith(f"/trees/{name}")


def test_a_tree_that_cannot_be_had_says_why_and_heartbeats_go_on(
    site: FakeSite, agent: AgentProcess, tmp_path: Path
) -> None:
    base = installed(tmp_path)
    broken = site.offer(*changed(base, {"model/wrong.py": b"def (:\n"}))
    agent.devices = 2
    agent.start()
    nodes = [site.order(broken), site.order(broken, device=1), site.order("ab" * 32, berth=1)]
    eventually(lambda: len(site.ended) == 3, f"{site.ended} {agent.said}", 120)
    assert all("does not build" in site.ended[str(node)] for node in nodes[:2])
    assert "cannot be fetched" in site.ended[str(nodes[2])]
    assert agent.said.count(f"{broken[:12]} is fetched and built") == 1
    assert sandboxes(agent.device()) == set() and not list((agent.home / "trees").iterdir())
    during = [beat for beat in site.beats if all(row["node"] is None for row in beat["devices"])]
    assert len(during) > 3  # while it was prepared the berth was free


def test_berths_and_devices_that_a_host_does_not_have_get_no_node(
    site: FakeSite, agent: AgentProcess
) -> None:
    for device, berth in ((0, 2), (0, -1), (1, 0), (-1, 0)):
        site.order(device=device, berth=berth)
    agent.start()
    eventually(lambda: len(site.beats) > 5, agent.said, 60)
    assert not site.ended and site.report() == {
        "device": 0,
        "berth": 0,
        "node": None,
        "state": "starting",
        "port": None,
        "load": None,
    }
    assert agent.process is not None and agent.process.poll() is None


def test_what_holds_the_second_berth_without_a_record_is_killed(site: FakeSite, agent: AgentProcess) -> None:
    device = agent.device(0, 1)
    device.make()
    device.record.write_text("{")
    with device.taken() as held:
        assert held is not None
        holder = subprocess.Popen(["sleep", "600"], pass_fds=(held,))
    assert device.is_held()
    agent.start()
    assert holder.wait(60) == -signal.SIGKILL
    eventually(lambda: site.beats and site.beats[-1]["n_devices"] == 1, agent.said, 30)
    assert device.is_free() and site.report(0, 1) is None


# -- the host's key -----------------------------------------------------------------------------------


def test_the_hosts_key_is_made_once_and_registered_once_for_each_token(
    site: FakeSite, agent: AgentProcess
) -> None:
    agent.start()
    eventually(lambda: "the site knows this host's key" in agent.said, agent.said, 60)
    key = agent.home / "host-key.pem"
    made = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600 and b"PRIVATE" in made
    agent.kill()
    agent.start()
    beats = len(site.beats)
    eventually(lambda: len(site.beats) > beats + 15, agent.said, 60)
    assert len(site.keys) == 1 and key.read_bytes() == made
    site.token = agent.token = "gsh_renewed"
    (agent.folder / "host-token").write_text(agent.token)
    eventually(lambda: len(site.keys) == 2, agent.said, 60)
    assert site.keys[0] == site.keys[1]
    site.known_key = "another"
    site.token = agent.token = "gsh_renewed_again"
    (agent.folder / "host-token").write_text(agent.token)
    eventually(lambda: "knows another key of this host" in agent.said, agent.said, 60)
    assert "hosts renew" in agent.said and "PRIVATE" not in agent.said
    assert agent.process is not None and agent.process.poll() is None


def test_nothing_starts_before_the_site_has_heard_what_a_device_holds(
    site: FakeSite, agent: AgentProcess
) -> None:
    """Else the order of a node that is lost would be carried out again, and the site would not hear that it was lost."""
    device = agent.device()
    device.make()
    ours, theirs = socket.socketpair()
    with device.taken() as descriptor:
        assert descriptor is not None
        socket.send_fds(
            ours, [b"x"], [descriptor]
        )  # then no process has the lock, and none can be killed for it

    def let_go(port: int) -> None:
        ours.close()
        theirs.close()

    site.on_beat = let_go  # before the first answer, which has the order
    node = site.order()
    agent.start()
    eventually(lambda: any(is_on(beat, node) for beat in site.beats), agent.said, 60)
    before = [beat for beat in site.beats if not is_on(beat, node)]
    assert before[0]["n_devices"] == 0
    assert any(beat["n_devices"] == 1 for beat in before)


def is_on(beat: dict[str, Any], node: UUID) -> bool:
    return any(row["node"] == str(node) for row in beat["devices"])
