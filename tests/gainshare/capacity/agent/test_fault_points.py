"""No fault point of the pool, of the gateway or of lent devices is left out of the kill tests, which are long."""

import re
from pathlib import Path

from tests.gainshare.capacity.agent.test_kill import (
    AGENT_POINTS,
    NODE_POINTS,
    ROOT,
    SERVICE_POINTS,
    WEB_POINTS,
)
from tests.gainshare.capacity.agent.test_kill_deployed import BERTH_POINTS, CANARY_POINTS, TREE_POINTS
from tests.gainshare.capacity.deployments.deployments_world import PASS_POINTS

CAPACITY = "platform/gainshare/capacity"
OF_NODES = (f"{CAPACITY}/agent", f"{CAPACITY}/hosts", f"{CAPACITY}/tasks.py", "benchmarks/confined_node")
EVERYWHERE = (
    CAPACITY,
    "platform/gainshare/gateway",
    "benchmarks/confined_node",
    "bounty/services/runners",
)
CALL = re.compile(r"(?<!def )\bfault_point\(")
NAMED = re.compile(r'\bfault_point\("([a-z0-9_.]+)"\)')


def files_of(places: tuple[str, ...]) -> list[Path]:
    found = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def points_of(places: tuple[str, ...]) -> set[str]:
    return {name for file in files_of(places) for name in NAMED.findall(file.read_text(encoding="utf-8"))}


def test_every_fault_point_of_the_pools_nodes_is_in_these_lists() -> None:
    found = points_of(OF_NODES)
    deployed = {*TREE_POINTS, *BERTH_POINTS, *CANARY_POINTS, *PASS_POINTS}
    assert found == {*AGENT_POINTS, *NODE_POINTS, *WEB_POINTS, *SERVICE_POINTS, *deployed}


def test_every_fault_point_is_named_in_a_test() -> None:
    tests = [file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__).resolve()]
    texts = [file.read_text(encoding="utf-8") for file in tests]
    points = points_of(EVERYWHERE)
    for known in ("capacity.ray.told", "loans.recalled", "deployments.switch.committed", "gateway.held"):
        assert known in points, "a folder is no longer searched"
    assert {point for point in points if not any(f'"{point}"' in text for text in texts)} == set()


def test_every_fault_point_has_a_name_that_can_be_searched_for() -> None:
    for file in files_of(EVERYWHERE):
        text = file.read_text(encoding="utf-8")
        assert len(CALL.findall(text)) == len(NAMED.findall(text)), file
