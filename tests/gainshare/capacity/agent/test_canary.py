"""Canaries that a real agent runs for a site of the test's own: to the site's hands, to the reason, or to their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.canary.order import CanaryOrder
from benchmarks.confined_node.folders import CANARY_SEATS
from benchmarks.evidence.signing import load_key
from gainshare.capacity.agent.protocol import MAX_CANARY_BYTES, MAX_TEXT
from tests.gainshare.capacity.agent.agent_world import AgentProcess, eventually
from tests.gainshare.capacity.agent.canary_world import (
    began,
    behave,
    living,
    make_canary_agent,
    nothing_runs,
    offer_trees,
    order_of,
    pids,
)
from tests.gainshare.capacity.agent.fake_site import FakeSite
from tests.gainshare.capacity.agent.tree_making import changed, installed

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def agent(site: FakeSite, open_folder: Path) -> Iterator[AgentProcess]:
    made = make_canary_agent(site, open_folder)
    yield made
    made.close()


@pytest.fixture
def trees(site: FakeSite, tmp_path: Path) -> tuple[str, str]:
    return offer_trees(site, tmp_path)


def result(site: FakeSite, agent: AgentProcess) -> dict[str, object]:
    eventually(lambda: site.results, agent.said, 120)
    return site.results[-1][1]


def test_a_canary_reaches_the_site_once_it_is_done(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    behave(agent, runs_s=1.5)
    site.canary = order = order_of(*trees)
    agent.start()
    eventually(lambda: site.progress() == "decode at 4: 6 of 30 pairs", agent.said, 120)
    assert site.beats[-1]["canary"]["id"] == str(order.id)
    document = result(site, agent)["document"]
    assert isinstance(document, dict) and document["nonce"] == order.nonce
    assert CanaryOrder.from_json(document["order"]) == order
    given = document["given"]
    assert set(given["seats"]) <= set(CANARY_SEATS)
    assert load_key(Path(given["key"])) and given["device"] == "cpu" and float(given["memory_gib"]) > 0
    assert given["level"] in ("bubblewrap", "bubblewrap-user", "container")
    eventually(lambda: site.beats[-1]["canary"] is None, agent.said, 30)
    assert len(site.results) == len(pids(agent)) == 1
    nothing_runs(agent)
    assert not (agent.home / "canary/result.json").exists()


def test_a_site_that_fails_gets_the_document_again_and_it_is_not_measured_again(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    site.result_status, site.canary = 503, order_of(*trees)
    agent.start()
    eventually(lambda: len(site.results) >= 2, agent.said, 120)
    assert (site.progress() or "").endswith("waits for the site")
    agent.kill()
    agent.start()
    known = len(site.results)
    eventually(lambda: len(site.results) > known, agent.said, 60)
    site.takes_result, site.result_status = False, 200  # taken, and the order is still there for a moment
    eventually(lambda: site.progress() == "is done", agent.said, 60)
    beats, known = len(site.beats), len(site.results)
    eventually(lambda: len(site.beats) > beats + 5, agent.said, 60)
    assert len(site.results) == known and len(pids(agent)) == 1
    assert all(one == site.results[0] for one in site.results)


def test_a_canary_that_is_begun_again_is_measured_again(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    """The site repeats a failed try under the same id, with a nonce that the earlier document does not have."""
    site.result_status, site.canary = 503, order_of(*trees)
    agent.start()
    eventually(lambda: site.results, agent.said, 120)
    site.canary = again = replace(site.canary, nonce="cd" * 32)
    agent.kill()
    agent.start()
    began(agent, 2)
    site.result_status = 200
    eventually(lambda: site.canary is None, agent.said, 120)
    assert site.results[-1][1]["document"]["nonce"] == again.nonce
    assert len(pids(agent)) == 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"fails": "no core is free", "status": 3}, "no core is free"),
        ({"fails": "Traceback\n\x1b[2Jsecret", "status": 1}, "exit status 1: \\x1b[2Jsecret"),
        ({"fails": "y" * 20_000, "status": 3}, "yyy"),
        ({"text": "{"}, "no document that can be read"),
        ({"text": "x" * (MAX_CANARY_BYTES + 1)}, "longer than 8 MiB"),
    ],
    ids=["could not", "failed", "long", "no document", "too long"],
)
def test_a_canary_that_finds_nothing_says_why(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str], how: dict[str, object], said: str
) -> None:
    behave(agent, **how)
    site.canary = order_of(*trees)
    agent.start()
    body = result(site, agent)
    assert said in str(body["failed"]) and len(str(body["failed"])) <= MAX_TEXT
    nothing_runs(agent)


def test_a_tree_that_cannot_be_had_fails_the_canary(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    agent.start()
    for wrong, said in (
        ({"candidate": "ab" * 32}, "cannot be fetched"),
        ({"candidate": "../../.."}, "no hash of a tree"),
        ({"best": "installed"}, "no hash of a tree"),
        ({"model": "../x"}, "no name of a model"),
    ):
        site.results.clear()
        site.canary = order_of(**{"served": trees[0], "candidate": trees[1], **wrong})
        assert said in str(result(site, agent)["failed"])
    assert not pids(agent)


def test_a_candidate_that_does_not_build_is_told_to_be_at_fault(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str], tmp_path: Path
) -> None:
    """Where it is the served tree that does not build, nothing is known of the candidate."""
    broken = site.offer(*changed(installed(tmp_path), {"model/wrong.py": b"def (:\n"}))
    agent.start()
    for order, is_of_tree in ((order_of(trees[0], broken), True), (order_of(broken, trees[1]), None)):
        site.results.clear()
        site.canary = order
        body = result(site, agent)
        assert "does not build" in str(body["failed"]) and body.get("is_of_tree") is is_of_tree
    assert not pids(agent)


def test_a_refused_document_is_told_as_a_failure(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    site.result_status, site.canary = 422, order_of(*trees)
    agent.start()
    eventually(lambda: len(site.results) >= 2, agent.said, 120)
    assert "document" in site.results[0][1] and "refused its document" in str(site.results[1][1]["failed"])
    eventually(lambda: len(site.beats) > 5, agent.said, 30)
    assert len(site.results) == 2


def test_a_canary_ends_when_its_order_changes_or_goes_and_with_its_agent(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    behave(agent, runs_s=600)
    site.canary = order_of(*trees)
    agent.start()
    began(agent)
    site.canary = order_of(*trees)
    began(agent, 2)
    assert len(living(agent)) == 1 and living(agent) == pids(agent)[1:]
    site.canary = None
    nothing_runs(agent)
    site.canary = order_of(*trees)
    began(agent, 3)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    nothing_runs(agent)
    assert not site.results


def test_a_killed_canary_is_told_and_all_of_it_is_gone(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    behave(agent, runs_s=600)
    site.canary = order_of(*trees)
    agent.start()
    began(agent)
    parent = int(Path(f"/proc/{pids(agent)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert "signal 9" in str(result(site, agent)["failed"])
    nothing_runs(agent)


def test_without_a_key_that_the_site_knows_nothing_is_measured(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    site.known_key = "another"
    agent.start()
    eventually(lambda: "knows another key" in agent.said, agent.said, 60)
    site.canary = order_of(*trees)
    assert "another key" in str(result(site, agent)["failed"])
    assert not pids(agent)


@pytest.mark.long
def test_the_installed_tree_is_one_of_a_canarys(
    site: FakeSite, agent: AgentProcess, trees: tuple[str, str]
) -> None:
    site.canary = order_of("", trees[1])
    agent.start()
    eventually(lambda: site.results, agent.said, 600)
    assert "document" in site.results[0][1]
    assert (agent.home / "trees/installed/model/_native.so").is_file()
    site.results.clear()
    site.canary = order_of("", trees[1])
    eventually(lambda: site.results, agent.said, 600)
    assert "document" in site.results[0][1]
