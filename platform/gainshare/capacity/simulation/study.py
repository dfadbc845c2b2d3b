"""A whole study: the trace that options name, the devices, and the figures of each comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from benchmarks.report import Row
from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.observed import Objective
from gainshare.capacity.policies.registry import POLICIES
from gainshare.capacity.policies.service_times import reachable
from gainshare.capacity.simulation import figures
from gainshare.capacity.simulation.classes import ClassOption, OptionsError, parse_class
from gainshare.capacity.simulation.comparison import (
    OURS,
    PUBLISHED,
    Compared,
    NoFleetMeets,
    Say,
    compare,
    smallest_fixed,
)
from gainshare.capacity.simulation.devices import device
from gainshare.capacity.simulation.pool import Device, Progress, Setting, simulate
from gainshare.capacity.simulation.rates import Calibration, read, shipped
from gainshare.capacity.simulation.results import Outcome
from gainshare.capacity.simulation.routing import ROUTERS
from gainshare.capacity.simulation.workload import DAY_S, Workload, of_trace
from gainshare.capacity.traces.arrivals import Rates
from gainshare.capacity.traces.formats import Format, read_rates, read_trace
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.rates import draw
from gainshare.capacity.traces.requests import Trace
from gainshare.capacity.traces.workload import WORKLOADS

REQUESTS_A_DAY = 70_000
MOST_NODES = 4096
#: Share of the mean load that nodes for a comparison of routing have, where no number is given.
ROUTING_LOAD = 0.7


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate. ``trace`` None is the product's generator; ``requests`` None is REQUESTS_A_DAY, a million at most."""

    trace: Path | None = None
    format: str = "auto"
    workload: str = "conversation"
    lengths: Path | None = None
    requests: int | None = None
    days: float = 2.0
    only_day: int | None = None
    cv: float = 1.0
    seed: int = 0
    policies: Sequence[str] = ()
    is_tuned: bool = False
    cold_starts_s: Sequence[float] = (120.0,)
    classes: Sequence[str] = ()
    slots: int = 4
    first_token_s: float = 2.0
    token_s: float = 0.1
    budget: int | None = None
    calibration: Path | None = None
    nodes: int | None = None
    with_routing: bool = False
    cache_tokens: int = 1_000_000


@dataclass
class Study:
    """Rows of figures, and the runs that a plot shows."""

    rows: list[Row] = field(default_factory=list)
    shown: list[Outcome] = field(default_factory=list)


def study(options: Options, say: Say, progress: Progress | None = None) -> Study:
    """Simulate what the options name. Raises OptionsError, TraceError and CalibrationError."""
    _check(options)
    calibration = shipped() if options.calibration is None else read(options.calibration)
    trace, rates = _trace(options)
    workload = of_trace(trace, with_prefixes=options.with_routing)
    say(f"{trace.name}: {len(workload.at_s):,} requests in {workload.end_s / DAY_S:.2f} days")
    found = Study([_trace_row(trace, workload), _calibration_row(calibration)])
    classes = [parse_class(text) for text in options.classes] or [ClassOption("standard")]
    if len({one.name for one in classes}) < len(classes):
        raise OptionsError("two classes have the same name: give each its own")
    if options.with_routing:
        _routing(found, options, workload, _devices(options, classes, workload, calibration, 0.0)[0])
    elif options.nodes is not None:
        devices = _devices(options, classes, workload, calibration, 0.0)
        outcome = _fixed(options, workload, devices, options.nodes, progress)
        found.rows += figures.fleet_rows(outcome)
        found.shown = [outcome]
    else:
        _compare_all(found, options, classes, workload, calibration, rates, say, progress)
    return found


def _check(options: Options) -> None:
    if unknown := set(options.policies) - set(POLICIES) | set(options.policies) & {"fixed"}:
        raise OptionsError(
            f"unknown policy {', '.join(sorted(unknown))}: choose of {', '.join((*PUBLISHED, OURS))}; the fixed fleet "
            "is always part of it"
        )
    if options.workload not in WORKLOADS:
        raise OptionsError(f"unknown workload {options.workload!r}: choose of {', '.join(WORKLOADS)}")
    if options.format not in get_args(Format):
        raise OptionsError(f"unknown format {options.format!r}: choose of {', '.join(get_args(Format))}")


def _trace(options: Options) -> tuple[Trace, Rates | None]:
    """The trace, and the rates that its arrivals were drawn from, where there are any."""
    if options.trace is None:
        requests = options.requests or min(1_000_000, round(REQUESTS_A_DAY * options.days))
        generated = generate(
            seed=options.seed,
            days=options.days,
            requests=requests,
            cv=options.cv,
            workload=WORKLOADS[options.workload],
        )
        return generated, generated.rates()
    form: Format = _format(options.format)
    if form == "auto" and not _is_rates(options.trace):
        return read_trace(options.trace), None
    if form not in ("auto", "rates"):
        return read_trace(options.trace, format=form), None
    rates = read_rates(options.trace)
    name = options.trace.name
    if options.only_day is not None:
        steps = round(DAY_S / rates.step_s)
        if (options.only_day + 1) * steps > len(rates.rates):
            raise OptionsError(f"{name} has no day {options.only_day}: the first one is 0")
        rates = rates.part(options.only_day * steps, steps)
        name += f", day {options.only_day}"
    requests = options.requests or min(1_000_000, round(REQUESTS_A_DAY * rates.duration_s / DAY_S))
    lengths: Trace = (
        generate(seed=options.seed, workload=WORKLOADS[options.workload])
        if options.lengths is None
        else read_trace(options.lengths)
    )
    drawn = draw(rates, lengths=lengths, seed=options.seed, requests=requests, cv=options.cv, name=name)
    return drawn, drawn.rates


def _format(name: str) -> Format:
    found: Literal["auto", "mooncake", "azure", "rates"] = name  # type: ignore[assignment]  # checked by _check
    return found


def _is_rates(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline().strip() == "t_s,rate"
    except OSError:
        return False  # the reader says what is wrong


def _devices(
    options: Options,
    classes: Sequence[ClassOption],
    workload: Workload,
    calibration: Calibration,
    cold_start_s: float,
) -> list[Device]:
    return [
        device(
            workload,
            calibration.rates.faster(one.speed),
            name=one.name,
            price=one.price,
            slots=options.slots,
            cold_start_s=cold_start_s if one.cold_start_s is None else one.cold_start_s,
            max_nodes=one.max_nodes,
            lifetime_s=one.lifetime_s,
            cache_blocks=options.cache_tokens // max(1, workload.block_tokens) if options.with_routing else 0,
            promised_token_s=options.token_s,
        )
        for one in classes
    ]


def _fixed(
    options: Options, workload: Workload, devices: Sequence[Device], nodes: int, progress: Progress | None
) -> Outcome:
    one = devices[0]
    kept = replace(one, facts=replace(one.facts, max_nodes=max(nodes, one.facts.max_nodes)))
    setting = Setting([kept], Objective(options.first_token_s, options.token_s), {one.facts.name: nodes})
    return simulate(workload, fixed_at(nodes), setting, name=f"fixed, {nodes} nodes", progress=progress)


def _compare_all(
    found: Study,
    options: Options,
    classes: Sequence[ClassOption],
    workload: Workload,
    calibration: Calibration,
    rates: Rates | None,
    say: Say,
    progress: Progress | None,
) -> None:
    fixed: tuple[int, Outcome] | None = None
    for cold_s in options.cold_starts_s:
        devices = _devices(options, classes, workload, calibration, cold_s)
        asked = Objective(options.first_token_s, options.token_s)
        objective = reachable(asked, devices[0].facts)
        if fixed is None:
            say(f"promised: {objective.first_token_p99_s:g} s and {1000 * objective.token_p99_s:g} ms")
            alone = Setting(devices[:1], objective)
            try:
                fixed = smallest_fixed(
                    workload, alone, most=devices[0].facts.max_nodes, say=say, progress=progress
                )
            except NoFleetMeets as error:
                raise OptionsError(str(error)) from error
        say(f"cold start {cold_s:g} s")
        compared = compare(
            workload,
            devices,
            objective,
            policies=options.policies or (*PUBLISHED, OURS),
            is_tuned=options.is_tuned,
            fixed=fixed,
            budget_a_day=options.budget,
            seed=options.seed,
            say=say,
            progress=progress,
        )
        label = f"cold start {cold_s:g} s"
        found.rows += figures.comparison_rows(compared, label)
        if len(devices) == 1:  # classes of other prices are bounded by other things than the load
            found.rows += _bound(compared, rates, label)
        found.shown = [compared.fixed, *compared.outcomes.values()]


def _bound(compared: Compared, rates: Rates | None, label: str) -> list[Row]:
    ours = compared.outcomes.get(OURS)
    if rates is None or ours is None:
        return []
    return [figures.bound_row(rates.mean_to_peak, compared.saved(ours), label)]


def _routing(found: Study, options: Options, workload: Workload, one: Device) -> None:
    if not workload.blocks:
        raise OptionsError(
            "this trace says nothing of prefixes: --routing needs one that does, as Mooncake's"
        )
    needed = len(workload.at_s) / workload.end_s / one.facts.requests_per_s
    nodes = options.nodes or max(2, math.ceil(needed / ROUTING_LOAD))
    devices = [replace(one, facts=replace(one.facts, max_nodes=MOST_NODES))]
    objective = Objective(options.first_token_s, options.token_s)
    for name, router in ROUTERS.items():
        setting = Setting(devices, objective, {one.facts.name: nodes}, router=router)
        found.shown.append(simulate(workload, fixed_at(nodes), setting, name=name))
    found.rows += figures.routing_rows(found.shown)


def _trace_row(trace: Trace, workload: Workload) -> Row:
    lengths = (
        f"{workload.prompt_tokens.mean():,.0f} prompt and {workload.output_tokens.mean():,.0f} output tokens on average, "
        f"{len(workload.at_s) / workload.end_s:.3g} requests/s"
    )
    how = f"{trace.name}, digest {trace.digest[:16]}, as simulated {workload.digest}: {lengths}"
    return Row("requests", len(workload.at_s), "", None, None, how)


def _calibration_row(calibration: Calibration) -> Row:
    tokens = 1024
    rate = tokens / (
        calibration.rates.prompt_s(tokens)
        + -(-tokens // calibration.rates.step_tokens) * calibration.rates.token_s(0)
    )
    return Row("prompt tokens a second, calibrated", round(rate), "1/s", None, None, calibration.says())
