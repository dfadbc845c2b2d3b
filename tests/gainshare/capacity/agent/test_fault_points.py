"""No fault point of the pool is left out of the kill tests, which are long."""

import re

from tests.gainshare.capacity.agent.test_kill import (
    AGENT_POINTS,
    NODE_POINTS,
    ROOT,
    SERVICE_POINTS,
    WEB_POINTS,
)
from tests.gainshare.capacity.agent.test_kill_deployed import BERTH_POINTS, CANARY_POINTS, TREE_POINTS
from tests.gainshare.capacity.deployments.deployments_world import PASS_POINTS

FOLDERS = (
    "platform/gainshare/capacity/agent",
    "platform/gainshare/capacity/hosts",
    "benchmarks/confined_node",
    "platform/gainshare/capacity",
)


def test_every_fault_point_of_the_pools_nodes_is_in_these_lists() -> None:
    found = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).glob("*.py"):
            found |= set(re.findall(r'fault_point\("([a-z_.]+)"\)', file.read_text()))
    deployed = {*TREE_POINTS, *BERTH_POINTS, *CANARY_POINTS, *PASS_POINTS}
    assert found == {*AGENT_POINTS, *NODE_POINTS, *WEB_POINTS, *SERVICE_POINTS, *deployed}
