"""`gainshare simulate`: what scaling policies cost for a trace, against the smallest fixed fleet that meets the objective."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from gainshare.cli.output import CliError, JsonOption, errors, say

GENERATED = "generated"


def simulate(
    trace: Annotated[
        str,
        typer.Argument(
            help="A trace: Mooncake's JSON lines, Azure's CSV, or rates (t_s,rate); or `generated`, the product's own."
        ),
    ] = GENERATED,
    format_: Annotated[str, typer.Option("--format", help="auto, mooncake, azure or rates.")] = "auto",
    lengths: Annotated[
        Path | None, typer.Option("--lengths", help="Draw lengths from this trace instead of the own ones.")
    ] = None,
    workload: Annotated[
        str, typer.Option("--workload", help="Own lengths: conversation or long-context.")
    ] = "conversation",
    requests: Annotated[
        int | None,
        typer.Option(
            "--requests",
            min=1,
            max=10_000_000,
            help="Requests drawn for rates, or generated (default: 70,000 a day, a million at most).",
        ),
    ] = None,
    days: Annotated[float, typer.Option("--days", min=0.01, max=366, help="Days to generate.")] = 2.0,
    only_day: Annotated[
        int | None, typer.Option("--only-day", min=0, help="Of rates: this day alone, the first one is 0.")
    ] = None,
    cv: Annotated[
        float,
        typer.Option("--cv", min=0.1, max=10, help="Burstiness of drawn arrivals: 1 Poisson, 2 bursty."),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal figures.")] = 0,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="kpa, hpa, ray or forecast; repeat it (default: all)."),
    ] = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Try the published policies with other targets as well.")
    ] = False,
    cold_start: Annotated[
        list[float] | None,
        typer.Option("--cold-start", min=0, help="Seconds from an order to a ready node; repeat it."),
    ] = None,
    device_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="NAME,price=CREDITS,speed=X,cold=S,lifetime=H,max=N: a class of devices, speed against the calibration; "
            "repeat it. The first one is the fixed fleet's.",
        ),
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, max=256, help="Answers at once on a node.")] = 4,
    first_token_s: Annotated[float, typer.Option("--first-token-s", min=0.001, help="Promised p99.")] = 2.0,
    token_ms: Annotated[float, typer.Option("--token-ms", min=0.001, help="Promised p99.")] = 100.0,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="Credits a day that scaling may not pass.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Measured rates (default: those that come with this version)."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, max=4096, help="Only a fixed fleet of so many nodes.")
    ] = None,
    routing: Annotated[
        bool,
        typer.Option("--routing", help="Compare ways of routing on a fixed fleet, for traces with prefixes."),
    ] = False,
    cache_tokens: Annotated[
        int,
        typer.Option(
            "--cache-tokens", min=0, help="With --routing: tokens that a node's prefix cache keeps."
        ),
    ] = 1_000_000,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write an SVG file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a pool under a trace: cost and p99 of each policy. Nothing is started, and no database is used.

    The objective is met where the 99th percentiles of the time to the first token and of the time for each token are no
    longer than promised; where prompts alone take longer on idle devices, a quarter more than that is promised instead.
    """
    # numpy and the simulation take a while to load: no other command waits for them.
    from benchmarks.report import Report
    from gainshare.capacity.simulation.classes import OptionsError
    from gainshare.capacity.simulation.plot import plot as plotted
    from gainshare.capacity.simulation.rates import CalibrationError
    from gainshare.capacity.simulation.study import Options, study
    from gainshare.capacity.traces.errors import TraceError

    options = Options(
        trace=None if trace == GENERATED else Path(trace),
        format=format_,
        workload=workload,
        lengths=lengths,
        requests=requests,
        days=days,
        only_day=only_day,
        cv=cv,
        seed=seed,
        policies=tuple(policy or ()),
        is_tuned=tuned,
        cold_starts_s=tuple(cold_start or (120.0,)),
        classes=tuple(device_class or ()),
        slots=slots,
        first_token_s=first_token_s,
        token_s=token_ms / 1000,
        budget=None if budget is None else round(budget * 1_000_000),
        calibration=calibration,
        nodes=nodes,
        with_routing=routing,
        cache_tokens=cache_tokens,
    )
    try:
        with _Bar() as bar:
            found = study(options, bar.say, bar.show)
    except (TraceError, CalibrationError, OptionsError, ValueError) as error:
        raise CliError(str(error), code="usage") from error
    if plot is not None:
        plot.write_text(plotted(f"Simulated: {Path(trace).name}", found.shown), encoding="utf-8")
        say(f"wrote {plot}")
    Report.here(_command(), found.rows).show(as_json=as_json)


def _command() -> str:
    """The command that prints the same figures."""
    return shlex.join(["gainshare", *(word for word in sys.argv[1:] if word != "--json")])


class _Bar:
    """Progress on standard error: a bar of the run in progress on a terminal, and a line for each finished one."""

    def __init__(self) -> None:
        self._progress = Progress(console=errors, transient=True)
        self._task = self._progress.add_task("simulating", total=1.0)

    def __enter__(self) -> _Bar:
        if errors.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        say(text)

    def show(self, share: float) -> None:
        self._progress.update(self._task, completed=share)
