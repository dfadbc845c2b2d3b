"""`gainshare scale`: lists served models, sets them up, and shows the decisions of scaling."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, Site, SiteError, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, credits_text, print_json, table

scale = typer.Typer(
    no_args_is_help=True, help="List served models, set how many nodes they get, and show decisions."
)

NameArgument = Annotated[str, typer.Argument(help="The served model's name, from `gainshare scale list`.")]


@scale.command("list")
def list_served(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List the served models with their wanted counts and the reason of the last decision."""
    found = site(url, key).get("capacity/models/")["results"]
    if as_json:
        print_json(found)
    else:
        _print_models(found)


@scale.command("set")
def set_served(
    name: NameArgument,
    classes: Annotated[
        str,
        typer.Option("--classes", help="Comma list of classes; needed for a model that is not served yet."),
    ] = "",
    policy: Annotated[
        str, typer.Option("--policy", help="fixed, kpa, hpa, ray or forecast; it decides from now on.")
    ] = "",
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", min=0, help="A fixed number of nodes; no policy decides from now on."),
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, help="Requests that one node answers at the same time.")
    ] = None,
    first_token_ms: Annotated[
        int | None,
        typer.Option("--first-token-ms", min=1, help="Objective: p99 of the time to the first token."),
    ] = None,
    token_ms: Annotated[
        int | None, typer.Option("--token-ms", min=1, help="Objective: p99 of the time for each token.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=0, help="Micro-credits a day that scaling may not pass.")
    ] = None,
    no_budget: Annotated[bool, typer.Option("--no-budget", help="Remove the budget.")] = False,
    actuator: Annotated[str, typer.Option("--actuator", help="local, ray or external.")] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Serve a model, or change how it is served. What is not given stays as it is."""
    if policy and nodes is not None:
        raise CliError("give --policy or --nodes: a policy or a fixed number decides, not both", code="usage")
    if no_budget and budget is not None:
        raise CliError("give --budget or --no-budget, not both", code="usage")
    given: dict[str, Any] = {
        "classes": [part.strip() for part in classes.split(",") if part.strip()] or None,
        "policy": policy or None,
        "is_automatic": True
        if policy and policy != "fixed"
        else False
        if policy or nodes is not None
        else None,
        "fixed_nodes": nodes,
        "slots": slots,
        "first_token_p99_ms": first_token_ms,
        "token_p99_ms": token_ms,
        "budget_microcredits_per_day": budget,
        "actuator": actuator or None,
    }
    body = {field: value for field, value in given.items() if value is not None}
    if no_budget:
        body["budget_microcredits_per_day"] = None
    served = _put(site(url, key), name, body)
    if as_json:
        print_json(served)
    else:
        _print_models([served])


@scale.command("decisions")
def show_decisions(
    model: Annotated[str, typer.Option("--model", help="Only this served model.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Number of decisions.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Also those that changed nothing.")] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the latest decisions with their reasons, newest first."""
    query: dict[str, str | int] = {"limit": limit, "model": model}
    if not every:
        query["is_change"] = "true"
    found = site(url, key).get("capacity/decisions/", **query)["results"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row["created_at"],
            row["model"],
            row["policy"],
            _counts(row["before"]),
            _counts(row["wanted"]),
            row["reason"],
        )
        for row in found
    ]
    table("Decisions", ("when", "model", "by", "before", "wanted", "reason"), rows)


def _put(where: Site, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Change the served model, or serve it if it is not served yet."""
    try:
        changed: dict[str, Any] = where.request("PATCH", f"capacity/models/{name}/", json=body)
    except SiteError as error:
        if error.code != "not_found":
            raise
        if "classes" not in body:
            raise CliError(
                f"{name} is not served yet: say on which classes with --classes", code="not_found"
            ) from None
        changed = where.post("capacity/models/", {"name": name, **body})
    return changed


def _print_models(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            row["name"],
            row["policy"] if row["is_automatic"] else f"{row['fixed_nodes']} fixed",
            ", ".join(row["classes"]),
            row["actuator"],
            ""
            if row["budget_microcredits_per_day"] is None
            else credits_text(row["budget_microcredits_per_day"]),
            _counts(row["wanted"]),
            "; ".join(filter(None, (row["reason"], row["problem"], row["failure"], row["engine_failure"]))),
        )
        for row in found
    ]
    table("Served models", ("model", "by", "classes", "actuator", "credits a day", "wanted", "reason"), rows)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"
