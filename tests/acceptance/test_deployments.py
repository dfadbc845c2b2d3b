"""Trees on a real elastic stack under load: served without a failed request, or rolled back.

One tree is deployed, the one before asked for by its name, and put back. One changes nothing in service, and one is slow
from a moment on. What never serves is in `test_refused_deployments.py`. `make demo` deploys a gain on every run; these
need minutes for each tree.
"""

from __future__ import annotations

import pytest

from tests.acceptance.deployed_stack import Deployments, ask, assert_nothing_failed, diff_of, prices
from tests.acceptance.elastic_load import Load
from tests.acceptance.elastic_stack import MODEL
from tests.acceptance.running_stack import ROOT, wait_for
from tests.benchmarks.canary.trees import Change, executor

pytestmark = [pytest.mark.stack, pytest.mark.sandbox, pytest.mark.long]

EXPERTS = "model/layers/moe/experts.py"
#: As fast as before in every canary, whose processes live shorter than this; then each step is computed four times.
LATE_S = 240
SLOW_LATER = executor(
    "import ctypes as _ctypes, time as _time\n\nBORN = _time.monotonic()\n\n"
    "def hostile(parts, logits_NV):\n"
    f"    if _time.monotonic() - BORN > {LATE_S}:\n"
    "        until = _time.monotonic() + 0.02\n"
    "        while _time.monotonic() < until:\n            pass\n"
)


def documented(text: str) -> list[Change]:
    """Another tree that computes the same."""
    first = (ROOT / EXPERTS).read_text().splitlines()[0]
    return [(EXPERTS, f"{first}\n", f"{first}\n{text}\n")]


@pytest.mark.timeout(1800)
def test_a_tree_is_served_and_rolled_back_without_a_failed_request(
    deployments: Deployments, load: Load
) -> None:
    tree = deployments.lineage("equal", diff_of(documented("Deployed.")))
    made = deployments.deploy("equal")
    assert made["state"] == "serving", made["why"]
    assert made["result"]["passed"] and made["has_evidence"]
    wait_for(lambda: deployments.answered_by()[tree] > 3, what="answers of the new tree")
    before = next(name for name in deployments.answered_by() if name != tree)

    person = load.people[0]
    pinned = ask(deployments.stack, person.key, f"{MODEL}@{before[:12]}")
    assert pinned["system_fingerprint"] == f"fp_{before[:12]}"
    assert ask(deployments.stack, person.key, MODEL)["system_fingerprint"] == f"fp_{tree[:12]}"

    serving = deployments.serving()
    back = deployments.site.post(
        f"capacity/deployments/{serving['id']}/rollback/", {"reason": "the test puts it back"}
    )
    assert deployments.ended(back["id"])["state"] == "serving"
    count = deployments.answered_by()[before]
    wait_for(lambda: deployments.answered_by()[before] > count + 3, what="answers of the tree before")
    states = {row["tree"]: row["state"] for row in deployments.all() if not row["is_rollback"]}
    assert states[tree] == "rolled_back"
    load.stop()
    assert_nothing_failed(load)


@pytest.mark.timeout(3600)
def test_a_gain_of_moe_forward_alone_changes_nothing_in_service(deployments: Deployments) -> None:
    """Nodes compute experts in their compiled executor, so what that suite measures is not what serves.

    Of equal trees a line is called certainly cheaper in up to 1 of 20; then it is by less than a per cent.
    """
    textbook = deployments.lineage("textbook", (ROOT / "examples/base/textbook_moe.diff").read_text())
    assert deployments.deploy("textbook")["state"] == "serving"
    before = prices(deployments)
    gain = (ROOT / "examples/patches/honest_speedup.diff").read_text()
    deployments.lineage("sparse", gain, base=textbook)
    made = deployments.deploy("sparse")
    assert made["state"] == "serving", made["why"]
    bounds = {line: found["bound_log_ppm"] for line, found in made["result"]["served"].items()}
    assert set(bounds) == {"prefill", "decode", "memory", "load"} and max(bounds.values()) < 10_000, bounds
    is_unchanged = max(bounds.values()) <= 0
    why = made["result"]["why"]
    assert why.startswith("no change: ") == is_unchanged, (why, bounds)
    assert (prices(deployments) == before) or not is_unchanged


@pytest.mark.timeout(3600)
def test_a_tree_that_is_slow_from_a_moment_on_is_rolled_back_by_itself(
    deployments: Deployments, load: Load
) -> None:
    tree = deployments.lineage("slow-later", diff_of(SLOW_LATER))
    made = deployments.deploy("slow-later")
    assert made["state"] == "serving", made["why"]
    wait_for(
        lambda: any(row["is_rollback"] and row["state"] == "serving" for row in deployments.all()),
        within_s=LATE_S + 900,
        what=f"the rollback; {deployments.all()}",
    )
    (ended,) = (row for row in deployments.all() if row["tree"] == tree)
    assert ended["state"] == "rolled_back", ended
    assert "of the time that the canary found" in ended["why"], ended
    load.stop()
    assert_nothing_failed(load)
