"""`gainshare pool`: shows the pool and sets its classes."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.maintainer.github import microcredits
from gainshare.cli.output import CliError, JsonOption, console, credits_text, print_json, table

pool = typer.Typer(
    invoke_without_command=True,
    help="Show the pool: classes, hosts, nodes and runners; create and change its classes.",
)

FIRST_STEPS = (
    "The pool is empty. First create a class, such as `gainshare pool class cpu-small --price 0.5`; then register a host "
    "and start its agent. docs/capacity.md shows each step."
)


@pool.callback()
def show_pool(
    context: typer.Context, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False
) -> None:
    """Show the pool: its classes with their prices, then hosts, devices and runners."""
    if context.invoked_subcommand is not None:
        return
    seen = site(url, key).get("capacity/pool/")
    if as_json:
        print_json(seen)
        return
    if not seen["classes"]:
        console.print(FIRST_STEPS, highlight=False, markup=False)
    else:
        _print_classes(seen["classes"])
    if seen["static_nodes"]:
        rows = [(node["number"], node["address"] or "for maintainers") for node in seen["static_nodes"]]
        table("Fixed nodes, of GAINSHARE_MODEL_NODES", ("node", "address"), rows)
    runners = [(one["name"], row) for one in seen["classes"] for row in one["runners"]]
    runners += [("", row) for row in seen["other_runners"]]
    table(
        "Runners",
        ("class", "runner", "hardware", "state", "busy with", "sandbox"),
        [
            (name, row["name"], row["hardware"], row["state"], row["busy_with"], row["sandbox_level"])
            for name, row in runners
        ],
    )


@pool.command("class")
def set_class(
    name: Annotated[str, typer.Argument(help="Name of the class, such as spot-a10.")],
    price: Annotated[str, typer.Option("--price", help="Credits per device-hour.")] = "",
    description: Annotated[str | None, typer.Option("--description", help="What the class is.")] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", help="Hardware of the runners that belong to it.")
    ] = None,
    max_nodes: Annotated[int | None, typer.Option("--max-nodes", help="Scaling starts no more.")] = None,
    cold_start_s: Annotated[
        int | None, typer.Option("--cold-start-s", help="Seconds from an order to a ready node.")
    ] = None,
    preemptible: Annotated[
        bool | None,
        typer.Option("--preemptible/--not-preemptible", help="Devices may be taken away at short notice."),
    ] = None,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a class of devices, or change what is given of it. Without options: show it with all its prices."""
    given = {
        "price_microcredits_per_device_hour": microcredits(price) if price else None,
        "description": description,
        "hardware": hardware,
        "max_nodes": max_nodes,
        "cold_start_s": cold_start_s,
        "is_preemptible": preemptible,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    where = site(url, key)
    address = f"capacity/classes/{name}/"
    if not changes:
        seen = where.get(address)
    else:
        try:
            seen = where.request("PATCH", address, json=changes)
        except CliError as error:
            if error.code != "not_found":
                raise
            seen = where.post("capacity/classes/", {"name": name, **changes})
    if as_json:
        print_json(seen)
        return
    table(
        f"{seen['name']}: {seen['description']}" if seen["description"] else seen["name"],
        ("credits per device-hour", "set by", "since"),
        [(_price(row), row["set_by"], row["set_at"]) for row in seen["prices"]],
        right=("credits per device-hour",),
    )


def _print_classes(classes: list[dict[str, Any]]) -> None:
    table(
        "Classes",
        ("class", "credits per device-hour", "before", "nodes", "at most", "preemptible", "hosts", "runners"),
        [
            (
                one["name"],
                _price(one),
                _before(one),
                one["n_nodes"],
                one["max_nodes"],
                "yes" if one["is_preemptible"] else "no",
                len(one["hosts"]),
                len(one["runners"]),
            )
            for one in classes
        ],
        right=("credits per device-hour", "before", "nodes", "at most", "hosts", "runners"),
    )
    table(
        "Devices",
        ("class", "host", "device", "use", "model or runner", "load", "since", "why"),
        [row for one in classes for row in _device_rows(one)],
    )
    table(
        "Measured rates of one node",
        ("class", "model", "prefill tokens/s", "decode tokens/s", "requests/s"),
        [
            (
                one["name"],
                rates["model"],
                f"{rates['prefill_tokens_per_s']:.0f}",
                f"{rates['decode_tokens_per_s']:.1f}",
                f"{rates['requests_per_s']:.2f}",
            )
            for one in classes
            for rates in one["rates"]
        ],
        right=("prefill tokens/s", "decode tokens/s", "requests/s"),
    )
    for one in classes:
        for host in one["hosts"]:
            for note in _notes(host):
                console.print(f"{host['name']}: {note}", highlight=False, markup=False)


def _device_rows(one: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    nodes = {(node["host"], node["device"]): node for node in one["nodes"]}
    loans = {(loan["host"], loan["device"]): loan for loan in one["loans"]}
    for host in one["hosts"]:
        for device in host["devices"]:
            place = (host["name"], device["number"])
            yield (one["name"], *place, *_use_of(device, nodes.get(place), loans.get(place)))


def _use_of(
    device: dict[str, Any], node: dict[str, Any] | None, loan: dict[str, Any] | None
) -> tuple[object, ...]:
    """Use, model or runner, load, since when, and why."""
    if node is not None:
        load = ", ".join(f"{name} {value}" for name, value in node["load"].items())
        return (
            f"node, {node['state']}",
            node["model"],
            load,
            node["ready_at"] or node["created_at"],
            node["reason"],
        )
    runner = f"runner {device['runner']}" if device["runner"] else ""
    if loan is not None:
        since = loan["taken_at"] or loan["offered_at"]
        return (f"loan, {loan['state']}", runner, "", since, loan["recall_reason"])
    return ("free", runner, "", "", "")


def _notes(host: dict[str, Any]) -> Iterator[str]:
    if host["is_silent"]:
        yield f"silent since {host['last_seen_at'] or 'it was registered'}"
    if host["leaves_at"]:
        yield f"leaves at {host['leaves_at']}"
    if host["problem"]:
        yield host["problem"]
    if host["is_shared"]:
        yield host["sharing"]


def _price(row: dict[str, Any]) -> str:
    return credits_text(row["price_microcredits_per_device_hour"])


def _before(one: dict[str, Any]) -> str:
    before = one["price_before_microcredits"]
    return "" if before is None else credits_text(before)
