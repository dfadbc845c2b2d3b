"""`gainshare runners`: lists runners and manages them."""

from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

runners = typer.Typer(
    no_args_is_help=True, help="List runners; drain, resume, quarantine, release and calibrate them."
)

NameArgument = Annotated[str, typer.Argument(help="The runner's name, from `gainshare runners list`.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, recorded in the runner's history.")]
SHOWN_SAMPLES = 10
SHOWN_CHANGES = 10


@runners.command("list")
def list_runners(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List every runner with its state, its hardware and the run that it has."""
    found = site(url, key).get("runners/")["results"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row["name"],
            row["state"],
            row["quarantine_cause"],
            row["hardware"],
            row["last_seen_at"],
            row["current_run"],
        )
        for row in found
    ]
    table("Runners", ("name", "state", "quarantined for", "hardware", "last seen", "run"), rows)


@runners.command("show")
def show_runner(
    name: NameArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False
) -> None:
    """Show one runner: its machine, its last A/A runs, the runs in doubt for it, its history."""
    where = site(url, key)
    seen = where.get(f"runners/{name}/")
    seen["noise"] = where.get(f"runners/{name}/noise/", limit=SHOWN_SAMPLES)["results"]
    seen["doubts"] = where.get(f"runners/{name}/doubts/")
    if as_json:
        print_json(seen)
        return
    _print_line(seen)
    table("Machine", ("", ""), [(part, _plain(value)) for part, value in seen["fingerprint"].items()])
    table(
        "A/A runs, newest first",
        ("when", "suite", "pairs", "noise %", "median %", "good", "fault"),
        [
            (
                row["created_at"],
                f"{row['suite']}/{row['preset']}",
                row["pairs"],
                f"{row['noise_log_ppm'] / 10_000:.2f}",
                f"{row['median_log_ppm'] / 10_000:.2f}",
                "yes" if row["is_good"] else "no",
                row["fault"],
            )
            for row in seen["noise"]
        ],
        right=("pairs", "noise %", "median %"),
    )
    table(
        "Runs in doubt",
        ("run", "kind", "submission", "finished"),
        [(row["id"], row["kind"], row["submission"], row["finished_at"]) for row in seen["doubts"]],
    )
    table(
        "History, newest last",
        ("when", "state", "reason"),
        [(row["created_at"], row["new"], row["reason"]) for row in seen["changes"][-SHOWN_CHANGES:]],
    )


@runners.command("drain")
def drain_runner(
    name: NameArgument,
    reason: ReasonOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a runner finish its run and give it no more runs."""
    _act(name, "drain", reason, url, key, as_json)


@runners.command("resume")
def resume_runner(
    name: NameArgument,
    reason: ReasonOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give a drained runner runs again."""
    _act(name, "resume", reason, url, key, as_json)


@runners.command("quarantine")
def quarantine_runner(
    name: NameArgument,
    reason: ReasonOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Quarantine a runner: it gets only A/A runs until it is released."""
    _act(name, "quarantine", reason, url, key, as_json)


@runners.command("release")
def release_runner(
    name: NameArgument,
    reason: ReasonOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Release a runner from quarantine."""
    _act(name, "release", reason, url, key, as_json)


@runners.command("device")
def set_device(
    name: NameArgument,
    place: Annotated[
        str,
        typer.Argument(
            help="HOST:NUMBER of the pool's device, from `gainshare pool`; none: not in the pool."
        ),
    ],
    reason: ReasonOption,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say on which device of the pool a runner measures, so that the device is lent to it."""
    host, colon, number = place.rpartition(":")
    if place == "none":
        host, number = "", "0"
    elif not colon or not host or not number.isdecimal():
        raise CliError(f"{place} is not a device: write HOST:NUMBER, such as gpu-1:0, or none", code="usage")
    body = {"host": host, "device": int(number), "reason": reason}
    seen = site(url, key).post(f"runners/{name}/device/", body)
    if as_json:
        print_json(seen)
    else:
        _print_line(seen)


@runners.command("calibrate")
def calibrate_runner(
    name: NameArgument,
    suite: Annotated[
        str, typer.Option("--suite", help="Together with --preset; by default all that bounties pay for.")
    ] = "",
    preset: Annotated[str, typer.Option("--preset", help="Together with --suite.")] = "",
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Order A/A runs of a runner now."""
    ordered = site(url, key).post(f"runners/{name}/calibrate/", {"suite": suite, "preset": preset})
    if as_json:
        print_json(ordered)
    elif not ordered:
        console.print("nothing new: these A/A runs already wait for the runner", highlight=False)
    else:
        table(
            "Ordered", ("run", "suite"), [(row["id"], f"{row['suite']}/{row['preset']}") for row in ordered]
        )


def _act(name: str, action: str, reason: str, url: str, key: str, as_json: bool) -> None:
    seen = site(url, key).post(f"runners/{name}/{action}/", {"reason": reason})
    if as_json:
        print_json(seen)
    else:
        _print_line(seen)


def _print_line(seen: dict[str, Any]) -> None:
    cause = f", quarantined for {seen['quarantine_cause']}" if seen["quarantine_cause"] else ""
    run = f", run {seen['current_run']}" if seen["current_run"] else ""
    device = f", on {seen['pool_host']}:{seen['pool_device']}" if seen["pool_host"] else ""
    console.print(
        f"{seen['name']} ({seen['hardware']}) is {seen['state']}{cause}{run}{device}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
