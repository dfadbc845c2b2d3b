"""The tree that prices rest on: never a slower one that happens to serve. Pure, but for the one that reads the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from gainshare.capacity.models import Deployment, DeploymentState

PRICED = (PREFILL, DECODE, MEMORY)
"""Lines of a canary that say what a token costs."""


def best_tree(model: str) -> str:
    """The tree against which the next canary of ``model`` has to be cheaper for a price to fall."""
    return best_of(Deployment.objects.filter(model=model).exclude(serving_at=None).order_by("serving_at"))


def best_of(deployments: Iterable[Deployment]) -> str:
    """The same from the deployments that ever served, in the order in which they did.

    It starts with the first deployment (nothing served before it), else with the installed tree. Each later one
    that was credited replaces it: one with a positive bound on any line against the best tree of its own time. A tree
    that was rolled back does not count, nor a rollback, nor a tree that is slower than the best and serves all the
    same: so who makes a model slower and faster again has moved no price.
    """
    best = ""
    for deployment in deployments:
        if deployment.state == DeploymentState.ROLLED_BACK or deployment.is_rollback:
            continue
        if deployment.is_first or credited_lines(deployment.result):
            best = deployment.tree
    return best


def credited_lines(result: Mapping[str, Any]) -> dict[str, int]:
    """Lines that are surely cheaper than the best tree's, with their lower bounds in millionths of a nat.

    ``result`` is `benchmarks.canary.verdict.CanaryVerdict.to_json()`.
    """
    best = result.get("best") or {}
    bounds = {line: int(best[line]["bound_log_ppm"]) for line in PRICED if line in best}
    return {line: bound for line, bound in bounds.items() if bound > 0}
