"""Trees that never serve: slow in service, also as a merged gain, different in a batch of seven, or keeping prompts.

Each meets its canary on a real stack whose model two customers ask without a pause. All are of files that patches may touch.
"""

from __future__ import annotations

import pytest

from gainshare.cli.contributor.submission import is_resting
from tests.acceptance.bounty_world import open_bounty
from tests.acceptance.deployed_stack import Deployments, assert_nothing_failed, diff_of, prices
from tests.acceptance.elastic_load import Load
from tests.acceptance.running_stack import wait_for
from tests.benchmarks.canary.trees import (
    DIFFERENT_AT_SEVEN,
    SLOWER,
    SLOWER_IN_NODES,
    WRITES_TO_SCRATCH,
    Change,
)

pytestmark = [pytest.mark.stack, pytest.mark.sandbox, pytest.mark.long]

SLOW = "it takes more time"
JUDGED_S = 2400.0  # a gate, a confirmation and a guard run, with time for the load of other tests
TREES: dict[str, tuple[list[Change], str]] = {
    "slower": (SLOWER, SLOW),
    "different-at-seven": (DIFFERENT_AT_SEVEN, "answer"),
    "keeps-prompts": (WRITES_TO_SCRATCH, "it leaks one account's prompt"),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TREES)
def test_it_is_refused_and_answers_no_one(deployments: Deployments, load: Load, name: str) -> None:
    changes, reason = TREES[name]
    before = prices(deployments)
    tree = deployments.lineage(name, diff_of(changes))
    made = deployments.deploy(name)
    assert made["state"] == "refused", made
    assert reason in made["why"], made["why"]
    assert tree not in deployments.answered_by() and prices(deployments) == before
    load.stop()
    assert_nothing_failed(load)


@pytest.mark.timeout(3600)
def test_a_merged_gain_that_is_slow_in_service_is_refused(deployments: Deployments, load: Load) -> None:
    """Its suite and its guard rail (`decode`, in the preset `tour`) are right: there it is faster. What serves is slower."""
    stack = deployments.stack
    load.set(0, pause_s=0.2)  # nothing is asked while it is judged
    world = open_bounty(stack.url, stack.key, preset="tour")
    author = world.newcomer()
    submission = world.submit(author, "honest_speedup", more=diff_of(SLOWER_IN_NODES))
    path = f"submissions/{submission}/"
    wait_for(lambda: is_resting(author.get(path)), within_s=JUDGED_S, what="the verdict")
    seen = author.get(path)
    assert seen["state"] == "confirmed", seen["verdict"]
    world.reviewer.post(f"{path}review/", {"decision": "accept", "comment": "Reads well."})
    world.reviewer.post(f"{path}merge/")

    load.set(2, pause_s=0.2)
    before = prices(deployments)
    made = deployments.deploy(world.lineage)
    assert made["tree"] == seen["candidate_tree"] and made["state"] == "refused", made
    assert SLOW in made["why"], made["why"]
    assert made["tree"] not in deployments.answered_by() and prices(deployments) == before
    with stack.client() as site:
        page = site.get(f"{stack.url}/lineages/{world.lineage}/")
    assert SLOW in page.text and ">refused</span>" in page.text
    load.stop()
    assert_nothing_failed(load)
