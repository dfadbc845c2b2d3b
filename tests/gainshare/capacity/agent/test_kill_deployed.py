"""kill -9 of the agent while it prepares trees, starts a successor or runs a canary: nothing twice, nothing forgotten."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.gainshare.capacity.agent.agent_world import AgentProcess, Overseer, eventually, sandboxes
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
from tests.gainshare.capacity.agent.fake_site import TOKEN, FakeSite
from tests.gainshare.capacity.agent.tree_making import MARK, installed, speaking

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

TREE_POINTS = [
    "agent.tree.after_fetch",
    "agent.tree.before_build",
    "agent.tree.before_rename",
    "agent.tree.after_rename",
]
BERTH_POINTS = ["agent.start.second_berth", "agent.start.second_berth_runs"]
CANARY_POINTS = ["agent.canary.started", "agent.canary.after_document", "agent.canary.after_post"]


@pytest.mark.parametrize("point", [*TREE_POINTS, *BERTH_POINTS])
def test_a_killed_agent_starts_one_successor_of_the_whole_tree(
    site: FakeSite, open_folder: Path, tmp_path: Path, point: str
) -> None:
    name = site.offer(*speaking(installed(tmp_path)))
    agent = AgentProcess(site.url, open_folder, TOKEN)
    try:
        node = site.order(name, berth=1)
        with Overseer(agent.device(0, 1)) as overseer:
            agent.start(point)
            eventually(lambda: agent.has_died_at(point), agent.said)
            left = {path.name for path in (agent.home / "trees").iterdir()}
            is_whole = point in (*BERTH_POINTS, "agent.tree.after_rename")
            assert (name in left) == is_whole
            agent.start()
            eventually(lambda: site.is_ready(node) or site.ended, agent.said)
            assert not site.ended and MARK in agent.device(0, 1).log.read_text()
            assert {path.name for path in (agent.home / "trees").iterdir()} == {name}
            site.drain(node)
            eventually(lambda: str(node) in site.ended, agent.said, 60)
            assert sandboxes(agent.device(0, 1)) == set() and len(overseer.seen) == 1
    finally:
        agent.close()


@pytest.mark.parametrize("point", CANARY_POINTS)
def test_a_killed_agent_runs_one_canary_at_a_time_and_the_site_gets_what_it_found(
    site: FakeSite, open_folder: Path, tmp_path: Path, point: str
) -> None:
    agent = make_canary_agent(site, open_folder)
    behave(agent, runs_s=3)
    site.takes_result = False
    site.canary = order_of(*offer_trees(site, tmp_path))
    try:
        agent.start(point)
        eventually(lambda: agent.has_died_at(point), agent.said)
        if point == "agent.canary.started":
            began(agent)  # it goes on without its agent
        agent.start()
        eventually(lambda: site.progress() == "is done", agent.said)
        assert "document" in site.results[-1][1]
        assert all(one == site.results[0] for one in site.results)
        assert len(pids(agent)) == (2 if point == "agent.canary.started" else 1)
        assert len(living(agent)) == 0
        assert (len(site.results) == 2) == (point == "agent.canary.after_post")
        nothing_runs(agent)
    finally:
        agent.close()


def test_the_next_agent_ends_a_canary_that_no_one_wants_any_more(
    site: FakeSite, open_folder: Path, tmp_path: Path
) -> None:
    agent = make_canary_agent(site, open_folder)
    behave(agent, runs_s=600)
    site.canary = order_of(*offer_trees(site, tmp_path))
    try:
        agent.start()
        began(agent)
        agent.kill()
        assert len(living(agent)) == 1
        site.canary = None
        agent.start()
        nothing_runs(agent)
        assert "a canary of an earlier agent is ended" in agent.said and not site.results
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    finally:
        agent.close()
