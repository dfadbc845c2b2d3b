"""The demo's gain in production: the model's first tree, the deployment of the merge, and the price that follows."""

import time
from typing import Any

from rich.table import Table

from benchmarks.statistics.units import signed_percent
from gainshare.cli.demo.bounties import ENGINE
from gainshare.cli.demo.people import Person
from gainshare.cli.demo.stage import Stage
from gainshare.cli.demo.watching import POLL_S
from gainshare.cli.maintainer.deploy import UNDER_WAY, lines_of
from gainshare.cli.output import CliError

READY_LIMIT_S = 600.0  # a node loads the model, on a slow machine
DEPLOY_LIMIT_S = 1800.0


def start_serving(stage: Stage) -> None:
    """Serve the model from the engine's base tree, its first deployment. Nothing served before, so it has no canary."""
    mira = stage.people["mira"]
    with stage.record.step(
        "first tree", "the model is served from the textbook engine, its first deployment"
    ) as step:
        first = mira.post(f"lineages/{ENGINE.lineage}/deploy/", {"model": stage.model})
        mira.request("PATCH", f"capacity/models/{stage.model}/", json={"fixed_nodes": 1})
        seen = _follow(stage, mira, first["id"])
        tree = _wait_until_served(stage, mira)
        step.ok = seen["state"] == "serving" and tree == seen["tree"] == first["tree"]
        step.actual = f"{seen['state']}, {stage.model} answers from the tree {tree[:12]}"


def deploy_gain(stage: Stage) -> None:
    """Deploy the merge, and print what the canary measured."""
    ruth = stage.people["ruth"]
    with stage.record.step(
        "deploy", "the canary finds the merged tree faster and equal; then it serves"
    ) as step:
        tip = ruth.get(f"lineages/{ENGINE.lineage}/")["tip"]
        asked = ruth.post(f"lineages/{ENGINE.lineage}/deploy/", {"model": stage.model})
        seen = stage.record.deployment = _follow(stage, ruth, asked["id"])
        if seen["result"]:
            _print_canary(stage, seen["result"])
        step.ok = seen["state"] == "serving" and seen["tree"] == tip and bool(seen["result"])
        step.actual = f"{seen['state']}, tree {seen['tree'][:12]}{': ' + seen['why'] if seen['why'] else ''}"


def lower_price(stage: Stage) -> None:
    """Propose the price that the canary's bounds give, and publish it."""
    mira = stage.people["mira"]
    with stage.record.step("price", "a token of an answer becomes cheaper by the measured saving") as step:
        proposal = stage.record.price = mira.get("prices/proposals/", model=stage.model)
        mira.post("prices/proposals/", {"model": stage.model, "digest": proposal["digest"]})
        moved = {row["term"]: row for line in proposal["lines"] for row in line["prices"]}
        output = moved["output"]
        step.ok = output["proposed"] < output["in_force"] == output["reference"]
        step.actual = (
            f"{output['in_force']:,} micro-credits per million output tokens become {output['proposed']:,}"
        )


def _follow(stage: Stage, person: Person, deployment: str) -> dict[str, Any]:
    deadline = time.monotonic() + DEPLOY_LIMIT_S
    while time.monotonic() < deadline:
        seen: dict[str, Any] = person.get(f"capacity/deployments/{deployment}/")
        stage.progress.show(
            f"deployment: {seen['state']}", detail=f"deployment: {seen['state']} {seen['progress']}"
        )
        if seen["state"] not in UNDER_WAY:
            stage.progress.stop()
            return seen
        time.sleep(POLL_S)
    raise CliError(
        f"deployment {deployment} has not ended after {DEPLOY_LIMIT_S:.0f} s; see `gainshare deploy`"
    )


def _wait_until_served(stage: Stage, person: Person) -> str:
    """The tree of the model's nodes, as soon as one is ready. Raises CliError."""
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        classes = person.get("capacity/pool/")["classes"]
        for node in (node for row in classes for node in row["nodes"]):
            if node["model"] == stage.model and node["state"] == "ready":
                stage.progress.stop()
                return str(node["tree"])
        stage.progress.show("the first node loads the model")
        time.sleep(POLL_S)
    raise CliError(
        f"{stage.model} had no ready node after {READY_LIMIT_S:.0f} s; see `gainshare pool --json`"
    )


def _print_canary(stage: Stage, result: dict[str, Any]) -> None:
    table = Table("line", "against the tree served", "at least", title="The canary")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, line in lines_of(result["served"]):
        table.add_row(name, signed_percent(line["estimate_log_ppm"]), signed_percent(line["bound_log_ppm"]))
    stage.record.console.print(table)
