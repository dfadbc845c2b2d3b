"""Merged trees on a real elastic stack under load: served without a failed request, refused, or rolled back.

One tree is deployed, the one before asked for by its name, and put back. Others are slow in service, different in a batch
of seven, or slow from a moment on. `make demo` deploys a gain on every run; these need minutes for each tree.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from gainshare.cli.client import Site
from tests.acceptance.elastic_load import CUT, FAILED, Load, customer
from tests.acceptance.elastic_stack import MODEL, Pool
from tests.acceptance.running_stack import ROOT, Stack, wait_for
from tests.benchmarks.canary.trees import DIFFERENT_AT_SEVEN, SLOWER, Change, executor

pytestmark = [pytest.mark.stack, pytest.mark.sandbox, pytest.mark.long]

UNDER_WAY = ("requested", "canary", "starting")
EXPERTS = "model/layers/moe/experts.py"
CANARY_S = 900.0
#: As fast as before in every canary, whose processes live shorter than this; then each step is computed four times.
LATE_S = 240
SLOW_LATER = executor(
    "import ctypes as _ctypes, time as _time\n\nBORN = _time.monotonic()\n\n"
    "def hostile(parts, logits_NV):\n"
    f"    if _time.monotonic() - BORN > {LATE_S}:\n"
    "        until = _time.monotonic() + 0.02\n"
    "        while _time.monotonic() < until:\n            pass\n"
)


class Deployments:
    """Deployments of a stack's model, as its administrator asks for them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.site = Site(stack.url, stack.key)
        self.pool = Pool(stack, {"local": stack.home.agent})

    def lineage(self, name: str, diff: str, base: str = "shipped") -> str:
        """A lineage whose tip is the base tree with this diff; the tip."""
        tree = str(self.site.post("trees/", {"base": base, "diff": diff})["hash"])
        self.site.post("lineages/", {"name": name, "base_tree": tree, "is_demo": True})
        return tree

    def deploy(self, lineage: str) -> dict[str, Any]:
        """Ask for the lineage's tip, and wait until it serves or has ended."""
        return self.ended(str(self.site.post(f"lineages/{lineage}/deploy/", {"model": MODEL})["id"]))

    def ended(self, deployment: str) -> dict[str, Any]:
        def seen() -> dict[str, Any] | None:
            found: dict[str, Any] = self.site.get(f"capacity/deployments/{deployment}/")
            return found if found["state"] not in UNDER_WAY else None

        return wait_for(seen, within_s=CANARY_S, what=f"the deployment {deployment}; {self.pool.state()}")

    def serving(self) -> dict[str, Any]:
        (found,) = (row for row in self.all() if row["state"] == "serving")
        return found

    def all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.get("capacity/deployments/", model=MODEL, limit=50)["results"]
        return found

    def answered_by(self) -> Counter[str]:
        """Complete answers by the tree that gave them."""
        with self.stack.database() as connection:
            rows = connection.execute(
                "SELECT tree, count(*) FROM gateway_usagerecord WHERE status = 'completed' GROUP BY tree"
            )
            return Counter(dict(rows.fetchall()))


@pytest.fixture
def deployments(start_stack: Callable[..., Stack]) -> Deployments:
    found = Deployments(start_stack(devices=1))
    wait_for(lambda: found.pool.ready(), within_s=300, what="the first node")
    return found


@pytest.fixture
def load(deployments: Deployments) -> Iterator[Load]:
    running = Load(
        deployments.stack,
        [customer(deployments.stack, f"load-{number}") for number in range(2)],
        max_tokens=40,
    )
    running.start(2)
    running.set(2, pause_s=0.2)
    yield running
    running.stop()


def diff_of(changes: Sequence[Change]) -> str:
    """A diff of the shipped tree with each change made."""
    texts: dict[str, str] = {}
    for path, old, new in changes:
        text = texts.get(path) or (ROOT / path).read_text()
        assert text.count(old) == 1, (path, old)
        texts[path] = text.replace(old, new)
    return "".join(
        f"diff --git a/{path} b/{path}\n"
        + "".join(
            difflib.unified_diff(
                (ROOT / path).read_text().splitlines(keepends=True),
                text.splitlines(keepends=True),
                f"a/{path}",
                f"b/{path}",
            )
        )
        for path, text in texts.items()
    )


def documented(text: str) -> list[Change]:
    """Another tree that computes the same."""
    first = (ROOT / EXPERTS).read_text().splitlines()[0]
    return [(EXPERTS, f"{first}\n", f"{first}\n{text}\n")]


def assert_nothing_failed(load: Load) -> None:
    assert load.of_kind(FAILED) == [] and load.of_kind(CUT) == []


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
def test_what_is_slow_in_service_or_answers_differently_never_serves(
    deployments: Deployments, load: Load
) -> None:
    for name, changes, reason in (
        ("slower", SLOWER, "it takes more time"),
        ("different", DIFFERENT_AT_SEVEN, "answer"),
    ):
        tree = deployments.lineage(name, diff_of(changes))
        made = deployments.deploy(name)
        assert made["state"] == "refused", (name, made)
        assert reason in made["why"], made["why"]
        assert tree not in deployments.answered_by()
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


def prices(deployments: Deployments) -> dict[str, Any]:
    """The terms that the next price of the model would have."""
    proposal = deployments.site.get("prices/proposals/", model=MODEL)
    return {row["term"]: row["proposed"] for line in proposal["lines"] for row in line["prices"]}


def ask(stack: Stack, key: str, model: str) -> dict[str, Any]:
    """One whole answer."""
    with stack.client(key) as http:
        answer = http.post(
            f"{stack.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
