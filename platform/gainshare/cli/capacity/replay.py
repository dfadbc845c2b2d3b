"""`gainshare replay`: what users would pay for a trace, against a flat price for each token. Needs no running site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands import command_line
from benchmarks.report import Report
from gainshare.capacity.replay.fleet import ACCELERATOR_TOKENS, Nodes
from gainshare.capacity.replay.plot import plot
from gainshare.capacity.replay.rows import Replayed, rows
from gainshare.capacity.replay.run import Settings, replay_trace
from gainshare.capacity.replay.tariffs import BOOK, BookError, read_book
from gainshare.capacity.traces.formats import TraceError, read_rates, read_trace
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.requests import Trace
from gainshare.capacity.traces.workload import WORKLOADS
from gainshare.cli.output import CliError, JsonOption, say

QUICK_REQUESTS = 4_000
REQUESTS = 20_000


def replay(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[TRACE]...",
            help="Mooncake's JSON lines, Azure's CSV, or rates (t_s,rate); generated traces by default.",
        ),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Option("--trace", metavar="FILE", help="The same; may be repeated.")
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(
            "--rates",
            metavar="FILE",
            help="Rates (t_s,rate) that a short trace's hours are drawn from; a generated fortnight by default.",
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE", help="A price book as JSON, with a price version's fields."),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=1024, help="Number of nodes.")] = Nodes.number,
    cache_tokens: Annotated[
        int, typer.Option("--cache-tokens", min=0, help="Tokens that a node's cache holds.")
    ] = ACCELERATOR_TOKENS,
    prefill_rate: Annotated[
        float, typer.Option("--prefill-rate", min=1, help="Prompt tokens a node computes in a second.")
    ] = Nodes.prefill_tokens_per_s,
    decode_rate: Annotated[
        float, typer.Option("--decode-rate", min=0.01, help="Tokens of one answer in a second.")
    ] = Nodes.decode_tokens_per_s,
    bytes_per_token: Annotated[
        int, typer.Option("--bytes-per-token", min=0, help="Bytes of cache that a token takes.")
    ] = Nodes.bytes_per_token,
    requests: Annotated[
        int,
        typer.Option(
            "--requests", min=1, max=1_000_000, help="Requests of a generated trace, or drawn from rates."
        ),
    ] = REQUESTS,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Generated traces are short; no other caches are tried.")
    ] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot by size of cache (SVG).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bill a trace's requests with the real price functions, and compare with a flat tariff.

    The flat tariff has the same list prices for every token, without a discount for cached input or for the time of day.
    Nodes and their caches are stated by the options; the same options and seed print the same figures.
    """
    if plot_file is not None and quick:
        raise CliError("--plot needs the other caches, which --quick leaves out: drop one", code="usage")
    try:
        stated = Nodes(nodes, cache_tokens, prefill_rate, decode_rate, bytes_per_token)
    except ValueError as error:
        raise CliError(str(error), code="usage") from None
    n_requests = min(requests, QUICK_REQUESTS) if quick else requests
    try:
        settings = _settings(rates, prices, stated, seed=seed, has_other_caches=not quick)
        given = [
            read_trace(path, seed=seed, requests=n_requests) for path in [*(traces or ()), *(more or ())]
        ]
    except (TraceError, BookError) as error:
        raise CliError(str(error), code="malformed") from None
    replayed = [replay_trace(trace, settings, say=say) for trace in given or _generated(seed, n_requests)]
    if plot_file is not None:
        _write_plot(plot_file, replayed, stated)
    found = rows(replayed, nodes=stated, book=settings.book)
    Report.here(command_line("gainshare", None), found).show(as_json=as_json)


def _settings(
    rates: Path | None, prices: Path | None, nodes: Nodes, *, seed: int, has_other_caches: bool
) -> Settings:
    book = BOOK if prices is None else read_book(prices)
    if rates is not None:
        name, found = rates.name, read_rates(rates)
    else:
        name, found = "a generated fortnight", generate(seed=seed, days=14).rates()
    return Settings(found, name, seed, nodes, book, has_other_caches)


def _generated(seed: int, requests: int) -> list[Trace]:
    return [generate(seed=seed, requests=requests, workload=workload) for workload in WORKLOADS.values()]


def _write_plot(path: Path, replayed: list[Replayed], nodes: Nodes) -> None:
    try:
        document = plot(replayed, nodes)
    except ValueError:
        raise CliError(
            "there is nothing to plot: no trace has prefixes, or the cache is empty", code="usage"
        ) from None
    path.write_text(document, encoding="utf-8")
    say(f"wrote {path}")
