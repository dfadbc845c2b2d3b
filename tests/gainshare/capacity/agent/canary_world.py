"""Canaries for tests of the agent: orders of small trees, and a program in the place of `python -m benchmarks.canary`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.canary.order import CanaryOrder, Plan, Shape
from tests.gainshare.capacity.agent.agent_world import AgentProcess, eventually
from tests.gainshare.capacity.agent.fake_site import TOKEN, FakeSite
from tests.gainshare.capacity.agent.tree_making import installed, speaking

PROGRAM = Path(__file__).with_name("canary_program.py")


def make_canary_agent(site: FakeSite, folder: Path) -> AgentProcess:
    models = folder / "models"
    models.mkdir()
    agent = AgentProcess(site.url, folder, TOKEN, options=["--models", str(models)], canary=PROGRAM)
    behave(agent)
    return agent


def behave(agent: AgentProcess, **how: Any) -> None:
    """What the next canary does: see `canary_program`."""
    (agent.folder / "models/behave.json").write_text(json.dumps(how))


def offer_trees(site: FakeSite, folder: Path) -> tuple[str, str]:
    """Two trees that build within seconds."""
    base = installed(folder)
    return site.offer(*speaking(base, "served")), site.offer(*speaking(base, "candidate"))


def order_of(served: str, candidate: str, **more: Any) -> CanaryOrder:
    given: dict[str, Any] = {"model": "tiny", "best": served, "nonce": "ab" * 32} | more
    return CanaryOrder(
        id=uuid4(), served=served, candidate=candidate, plan=Plan((Shape(20, 10),), pairs=2), **given
    )


def pids(agent: AgentProcess) -> list[int]:
    """The child processes of all canaries so far, in their order: one for each."""
    file = agent.folder / "models/pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def living(agent: AgentProcess) -> list[int]:
    """Of these, the ones that still run."""
    return [pid for pid in pids(agent) if _runs(pid)]


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def began(agent: AgentProcess, count: int = 1) -> None:
    eventually(lambda: len(pids(agent)) >= count, agent.said, 120)


def nothing_runs(agent: AgentProcess) -> None:
    eventually(lambda: not living(agent), f"{pids(agent)} {agent.said}", 30)
    eventually(lambda: not list((agent.home / "canary").glob("canary-*")), agent.said, 30)
