"""`gainshare deploy`: serves a model from a lineage's tip, after a canary; shows deployments; puts the tree before back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from benchmarks.canary.order import LINES
from benchmarks.statistics.units import signed_percent
from gainshare.cli.client import KeyOption, Site, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, say, table

LOOK_S = 1.0
UNDER_WAY = ("requested", "canary", "starting")
SHOWN = 50


def deploy(
    lineage: Annotated[
        str, typer.Argument(help="The lineage whose tip is to serve. Without it: the deployments so far.")
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="The served model, from `gainshare scale list`.")
    ] = "",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Put the tree back that served before, without a canary.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Of a rollback; shown on the model's page.")] = "",
    automatic: Annotated[
        str,
        typer.Option("--automatic", help="on or off: deploy each tip of the lineage by itself from now on."),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the deployment until it serves or is refused.")
    ] = True,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Serve a model from the tip of a lineage, once a canary found it no slower and no different (maintainers)."""
    where = site(url, key)
    if not lineage and not rollback:
        _show(where, model, as_json)
        return
    if not model:
        raise CliError("name the served model with --model; `gainshare scale list` shows them", code="usage")
    if automatic:
        _set_automatic(where, lineage, model, automatic, as_json)
        return
    made = _roll_back(where, model, reason) if rollback else _ask(where, lineage, model)
    if wait:
        made = follow(where, made["id"], quiet=as_json)
    if as_json:
        print_json(made)
    else:
        _print_one(made)
    if wait and made["state"] not in ("serving", "superseded"):
        raise typer.Exit(1)


def follow(where: Site, deployment: str, *, quiet: bool) -> dict[str, Any]:
    """Wait until a deployment serves or has ended, and say each step; the deployment then."""
    said = ""
    while True:
        seen: dict[str, Any] = where.get(f"capacity/deployments/{deployment}/")
        line = f"{seen['state']}: {seen['progress']}" if seen["progress"] else seen["state"]
        if line != said and not quiet:
            say(line)
        said = line
        if seen["state"] not in UNDER_WAY:
            return seen
        time.sleep(LOOK_S)


def _ask(where: Site, lineage: str, model: str) -> dict[str, Any]:
    made: dict[str, Any] = where.post(f"lineages/{lineage}/deploy/", {"model": model})
    seen: dict[str, Any] = where.get(f"capacity/deployments/{made['id']}/")
    return seen


def _roll_back(where: Site, model: str, reason: str) -> dict[str, Any]:
    if not reason:
        raise CliError("say why with --reason: it is shown on the deployment's page", code="usage")
    serving = [row for row in _deployments(where, model) if row["state"] == "serving"]
    if not serving:
        raise CliError(
            f"{model} is served by the installed tree: there is nothing to roll back", code="nothing"
        )
    path = f"capacity/deployments/{serving[0]['id']}/rollback/"
    made: dict[str, Any] = where.post(path, {"reason": reason})
    return made


def _set_automatic(where: Site, lineage: str, model: str, wanted: str, as_json: bool) -> None:
    if wanted not in ("on", "off"):
        raise CliError("--automatic is on or off", code="usage")
    body = {"model": model, "is_on": wanted == "on"}
    done = where.request("PUT", f"lineages/{lineage}/automatic-deploy/", json=body)
    if as_json:
        print_json(done)
        return
    then = "each tip with two acceptances is deployed" if done["is_on"] else "a maintainer deploys"
    console.print(f"{lineage}: {then} for {done['model']}", highlight=False, markup=False)


def _show(where: Site, model: str, as_json: bool) -> None:
    found = _deployments(where, model)
    if as_json:
        print_json(found)
        return
    rows = [
        (row["id"], row["model"], row["tree"][:12] or "installed", row["lineage"], row["state"], row["why"])
        for row in found
    ]
    table("Deployments", ("id", "model", "tree", "lineage", "state", "why"), rows)


def _deployments(where: Site, model: str) -> list[dict[str, Any]]:
    asked: dict[str, str | int] = {"limit": SHOWN, **({"model": model} if model else {})}
    found: list[dict[str, Any]] = where.get("capacity/deployments/", **asked)["results"]
    return found


def _print_one(made: dict[str, Any]) -> None:
    tree = made["tree"][:12] or "the installed tree"
    console.print(
        f"{made['model']} from {tree}: {made['state']}{': ' + made['why'] if made['why'] else ''}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if made["result"]:
        table(
            "Canary",
            ("line", "against the tree served", "at least", "against the best tree", "at least"),
            _lines(made["result"]),
            right=("against the tree served", "at least", "against the best tree"),
        )


def lines_of(results: dict[str, dict[str, int]]) -> Iterator[tuple[str, dict[str, int]]]:
    """The lines that a canary measured, in their order."""
    return ((line, results[line]) for line in LINES if line in results)


def _lines(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    best = dict(lines_of(result["best"]))
    for line, served in lines_of(result["served"]):
        yield line, *_two(served), *_two(best.get(line))


def _two(line: dict[str, int] | None) -> tuple[str, str]:
    """Estimate and lower bound as signed percent, "" for a line that was not measured."""
    if line is None:
        return "", ""
    return signed_percent(line["estimate_log_ppm"]), signed_percent(line["bound_log_ppm"])
