"""Rows of a replay: targets only where prefixes are, the worst trace by name, and what backs each discount."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.report import Row
from gainshare.capacity.replay.backing import HIT_OVER_MISS, HIT_OVER_MISS_SOURCE, discounts
from gainshare.capacity.replay.fleet import MOST_PAID_TOKENS, Nodes
from gainshare.capacity.replay.plot import plot
from gainshare.capacity.replay.rows import Replayed, rows
from gainshare.capacity.replay.run import Settings, replay_trace
from gainshare.capacity.replay.tariffs import BOOK, FIRST_CACHED_INPUT, BookError, read_book
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.recorded import RecordedTrace
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.ledger.pricing import PriceTable, check_terms
from gainshare.local.management.commands.bootstrap_local import FIRST_PRICE

ROOT = Path(__file__).resolve().parents[4]
NODES = Nodes(number=2, cache_tokens=100_000)


def settings(**changes: object) -> Settings:
    return replace(Settings(generate(days=14).rates(), "a fortnight", nodes=NODES), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cached() -> Replayed:
    return replay_trace(generate(requests=400), settings())


@pytest.fixture(scope="module")
def plain() -> Replayed:
    requests = tuple(TraceRequest(at / 10, 800 + at, 100) for at in range(300))
    return replay_trace(RecordedTrace("plain", "f" * 64, 0, requests), settings())


def named(found: list[Row], name: str) -> Row:
    (row,) = [row for row in found if row.name == name]
    return row


def test_the_target_counts_only_where_there_are_prefixes(cached: Replayed, plain: Replayed) -> None:
    found = rows([cached, plain], nodes=NODES, book=BOOK)
    ours = named(found, f"{cached.name}: users' cost against flat per-token pricing")
    assert (ours.target, ours.holds) == ("-35%", cached.costs.change <= -0.35)
    assert ours.value == round(100 * cached.costs.change, 1)
    azure = named(found, "plain: users' cost against flat per-token pricing")
    assert (azure.target, azure.holds) == (None, None)
    assert "says nothing of prefixes" in azure.how
    assert "2 nodes with 100,000 cached tokens each" in ours.how


def test_the_worst_trace_is_the_one_that_saves_least(cached: Replayed, plain: Replayed) -> None:
    good = replace(cached, name="good", costs=replace(cached.costs, by_step=(100, 90, 90, 90, 60)))
    bad = replace(cached, name="bad", costs=replace(cached.costs, by_step=(100, 95, 95, 95, 70)))
    (worst,) = [
        row for row in rows([good, bad, plain], nodes=NODES, book=BOOK) if row.name.startswith("worst")
    ]
    assert (worst.value, worst.holds, worst.how) == (-30.0, False, "bad, of 2 with prefixes")
    (worst,) = [row for row in rows([good], nodes=NODES, book=BOOK) if row.name.startswith("worst")]
    assert (worst.value, worst.holds) == (-40.0, True)
    assert not [row for row in rows([plain], nodes=NODES, book=BOOK) if row.name.startswith("worst")]


def test_the_parts_and_what_is_left_without_subsidies_add_up(cached: Replayed) -> None:
    found = rows([cached], nodes=NODES, book=BOOK)
    parts = {row.name.rsplit("part of ")[1]: row.value for row in found if ": part of " in row.name}
    assert list(parts) == ["cache", "memory", "long context", "off-peak"]
    total = 100 * cached.costs.change
    assert sum(float(value or 0) for value in parts.values()) == pytest.approx(total, abs=0.25)
    kept = named(found, f"{cached.name}: without subsidies")
    assert kept.value == pytest.approx(total - float(parts["off-peak"] or 0), abs=0.11)
    assert kept.how == "without off-peak"


def test_of_a_discount_that_is_partly_backed_the_rest_is_left_out(cached: Replayed) -> None:
    """Free cached input: 93 % of its price are a measured saving, 7 % are a gift."""
    book = replace(BOOK, cached_input=0, off_peak_windows=())
    given = replay_trace(generate(requests=400), settings(book=book))
    kept = named(rows([given], nodes=NODES, book=book), f"{given.name}: without subsidies")
    saved = given.costs.changes["cache"]
    assert saved < -0.1
    assert kept.value == pytest.approx(100 * (given.costs.change - 0.07 * saved), abs=0.051)
    assert kept.how == "without 7% of cache"
    both = replace(book, off_peak_windows=BOOK.off_peak_windows)
    kept = named(rows([cached], nodes=NODES, book=both), f"{cached.name}: without subsidies")
    assert kept.how == "without 7% of cache, off-peak"


def test_other_caches_and_a_new_sites_prices_stand_beside_it(cached: Replayed) -> None:
    found = rows([cached], nodes=NODES, book=BOOK)
    sizes = [row.name.rsplit(": ")[1] for row in found if ": with a cache" in row.name]
    assert sizes == [
        "with a cache of 50,000 tokens",
        "with a cache of 400,000 tokens",
        "with a cache of 800,000 tokens",
        "with a cache of 1,600,000 tokens",
        "with a cache without bound",
    ]
    hits = [costs.hit_share for costs in cached.by_cache.values()]
    assert hits == sorted(hits) and hits[0] < hits[-1]
    assert cached.first_prices.change > cached.costs.change
    assert FIRST_PRICE["cached_input"] == FIRST_CACHED_INPUT
    assert (BOOK.fresh_input, BOOK.output) == (FIRST_PRICE["fresh_input"], FIRST_PRICE["output"])


def test_what_was_drawn_is_written_down(cached: Replayed, plain: Replayed) -> None:
    found = rows([cached, plain], nodes=NODES, book=BOOK)
    drawn = named(found, "plain: hours")
    assert drawn.how.endswith("; hours drawn from a fortnight, seed 0")
    shares = drawn.how.split(": ")[1].split(";")[0].split()
    assert len(shares) == 24
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=1.3)
    assert named(found, f"{cached.name}: hours").how.endswith("the trace's own times, from midnight UTC")
    book = named(found, "price book: fresh input")
    assert json.loads(book.how.split("all terms: ")[1])["long_above"] == BOOK.long_above


def test_a_discount_is_backed_by_a_measurement_or_called_a_subsidy() -> None:
    cache, off_peak = discounts(BOOK)
    assert (cache.part, cache.is_subsidy) == ("cache", False)
    assert "python -m benchmarks.peers serve" in cache.says
    assert (off_peak.part, off_peak.is_subsidy, off_peak.size) == ("off-peak", True, 0.5)
    assert off_peak.says.startswith("a subsidy: ")
    given, _ = discounts(replace(BOOK, cached_input=0))
    assert given.is_subsidy
    assert given.says.startswith("a subsidy above 93%, backed up to there")
    assert discounts(PriceTable(5, 4, 3)) == [], "cached input that costs more is no discount"


def test_the_measurement_is_the_one_that_the_lab_has() -> None:
    text = (ROOT / "docs/lab/performance.md").read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if "**Prefix hit over miss** " in line]
    ratios = [
        float(part.strip(" .,"))
        for line in found
        for part in line.split("(")[0].split("**")[2].replace("to", "and").split("and")
    ]
    assert max(ratios) == HIT_OVER_MISS
    assert f"{min(ratios):.2f} to {max(ratios):.2f}" in HIT_OVER_MISS_SOURCE


def test_the_book_is_one_that_can_be_published() -> None:
    check_terms(BOOK, most=10**18)


def test_a_cache_beyond_the_meters_memory_is_said() -> None:
    assert f"metering remembers {MOST_PAID_TOKENS:,}" in Nodes(cache_tokens=MOST_PAID_TOKENS + 1).says
    assert "without bound" in Nodes(cache_tokens=None).says


def test_a_plot_has_a_panel_for_each_trace_with_prefixes(cached: Replayed, plain: Replayed) -> None:
    document = plot([cached, plain], NODES)
    assert document.startswith("<svg")
    assert f"{cached.name}: cost against the flat tariff" in document
    assert "plain" not in document
    with pytest.raises(ValueError, match="nothing to draw"):
        plot([plain], NODES)


def test_a_book_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    path.write_text(
        '{"cached_input": 1, "fresh_input": 4, "output": 16, "off_peak_windows": [[22, 3, 500000]]}'
    )
    book = read_book(path)
    assert (book.cached_input, book.off_peak_windows) == (1, [[22, 3, 500_000]])


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"fresh": 4}', "unknown price fresh"),
        ('{"cached_input": 1}', "is no price book"),
        ('{"cached_input": -1, "fresh_input": 4, "output": 16}', "is no price book"),
        ('{"cached_input": 1.5, "fresh_input": 4, "output": 16}', "is no price book"),
        ('{"cached_input": NaN, "fresh_input": 4, "output": 16}', "is no price book"),
        ('{"cached_input": 1, "fresh_input": 4, "output": 16, "off_peak_windows": 3}', "is no price book"),
        (
            '{"cached_input": 1, "fresh_input": 4, "output": 16, "off_peak_windows": [[0, 30, 1]]}',
            "is no price book",
        ),
        ('{"cached_input": 1, "fresh_input": 4, "output": 16, "memory_tiers": [7]}', "is no price book"),
    ],
)
def test_what_is_no_book_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "book.json"
    path.write_text(text)
    with pytest.raises(BookError, match=words):
        read_book(path)
    with pytest.raises(BookError, match="cannot be read"):
        read_book(tmp_path / "missing.json")
