"""Deployments of a model on a running stack, as acceptance tests ask for them: trees, prices, answers."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gainshare.cli.client import Site
from tests.acceptance.elastic_load import CUT, FAILED, Load
from tests.acceptance.elastic_stack import MODEL, Pool
from tests.acceptance.running_stack import ROOT, Stack, wait_for
from tests.benchmarks.canary.trees import Change

UNDER_WAY = ("requested", "canary", "starting")
CANARY_S = 900.0


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


def assert_nothing_failed(load: Load) -> None:
    assert load.of_kind(FAILED) == [] and load.of_kind(CUT) == []


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
