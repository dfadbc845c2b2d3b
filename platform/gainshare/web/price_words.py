"""Prices, bills and device times in words for pages. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gainshare.gateway.prices.comparisons import GainOfPrice, gains_of, reference_of
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.pricing import BYTE_MS_PER_PRICE, Prices
from gainshare.web.formatting import format_credits

ITEMS = {
    "cached_input": "Cached input",
    "fresh_input": "Fresh input",
    "output": "Output",
    "long_cached_input": "Long context, cached input",
    "long_fresh_input": "Long context, fresh input",
    "long_output": "Long context, output",
    "memory": "Cache memory",
}
DEVICE_TIMES = {
    "queued_ms": "Waiting in the queue",
    "prefill_ms": "Reading the prompt",
    "decode_ms": "Writing the answer",
    "device_ms": "Its share of the device",
}


def format_gb_seconds(byte_ms: int) -> str:
    """Byte-milliseconds as GB-seconds (10^12 of them), with at most six decimals."""
    return f"{format_credits(byte_ms // 1_000_000)} GB\N{MIDDLE DOT}s"


def format_share(ppm: int) -> str:
    """Millionths as per cent: `50 %`, `33.3333 %`."""
    whole, rest = divmod(ppm, 10_000)
    decimals = f"{rest:04d}".rstrip("0")
    return f"{whole}.{decimals} %" if decimals else f"{whole} %"


def format_to_the_millisecond(milliseconds: float) -> str:
    """A duration in seconds with three decimals: `2.500 s`."""
    return f"{milliseconds / 1000:,.3f} s"


def price_terms(price: Prices) -> list[str]:
    """The terms of a price in addition to its three token prices; empty if it has none."""
    return [*_windows(price.off_peak_windows), *_long_context(price), *_memory(price)]


def price_gains(price: PriceVersion) -> list[str]:
    """What the version cost before the gains, and each gain that lowered it; empty for a price that was set by hand."""
    gains = gains_of(price)
    if not price.derivation:
        return []
    before = reference_of(price)
    prices = (("prompt", before.fresh_input), ("answer", before.output))
    told = ", ".join(f"{what} {format_credits(amount)}" for what, amount in prices)
    return [
        f"Before the gains: {told}",
        *(f"{gain.gain}, by {gain.person}: {gain_in_words(gain)}" for gain in gains),
    ]


def _windows(windows: Sequence[Sequence[int]]) -> list[str]:
    if not windows:
        return []
    parts = [f"{first:02d}\N{EN DASH}{end:02d} at {format_share(factor)}" for first, end, factor in windows]
    return [f"Hours in UTC: {', '.join(parts)}"]


def _long_context(price: Prices) -> list[str]:
    surcharges = (
        (price.long_fresh_input, "prompt"),
        (price.long_cached_input, "prompt, cached"),
        (price.long_output, "answer"),
    )
    parts = [f"+{format_credits(amount)} {what}" for amount, what in surcharges if amount]
    return [f"Each token above {price.long_above:,}: {'; '.join(parts)}"] if parts else []


def _memory(price: Prices) -> list[str]:
    if not price.memory_share_ppm or not any(amount for _, amount in price.memory_tiers):
        return []
    parts = []
    for above, amount in price.memory_tiers:
        begin = f"above {format_gb_seconds(above)} " if above else ""
        parts.append(f"{begin}{format_credits(amount)} per GB\N{MIDDLE DOT}s")
    return [f"Cache memory: {', '.join(parts)}; at most {format_share(price.memory_share_ppm)} of the tokens"]


@dataclass(frozen=True, slots=True)
class BillRow:
    """A line of a bill as a page shows it; `note` says how windows, tiers and the cap made the amount."""

    item: str
    quantity: str
    unit_price: str
    amount: int
    note: str


def bill_row(line: Mapping[str, Any]) -> BillRow:
    """A stored line of a bill in words."""
    item, parts = str(line["item"]), line.get("parts") or []
    name = ITEMS.get(item, item.replace("_", " ").capitalize())
    unit_price = format_credits(line["unit_price"])
    if item != "memory":
        note = ", ".join(f"{count:,} at {format_share(factor)}" for factor, count in parts)
        return BillRow(name, f"{line['quantity']:,}", unit_price, line["amount"], note)
    notes = [f"{format_gb_seconds(amount)} at {format_credits(price)}" for price, amount in parts[:-1]]
    if sum(price * amount for price, amount in parts) // BYTE_MS_PER_PRICE > line["amount"]:
        notes.append("limited to its share of the tokens")
    unit = f"{unit_price} per GB\N{MIDDLE DOT}s"
    return BillRow(name, format_gb_seconds(line["quantity"]), unit, line["amount"], ", ".join(notes))


LINES = {"prefill": "fresh input", "decode": "output", "memory": "cache memory"}


def gain_in_words(gain: GainOfPrice) -> str:
    """What one gain saves: `18.1269 % of output`, of the price before all gains."""
    return ", ".join(f"{format_share(ppm)} of {LINES.get(line, line)}" for line, ppm in gain.lines.items())


def hours_in_words(prompt_hour: int | None, output_hours: Sequence[Sequence[int]]) -> str:
    """When the tokens arrived: `first token at 21 h; 4 at 21 h, 6 at 22 h`, in UTC."""
    by_hour: dict[int, int] = {}
    for hour, _, tokens in output_hours:
        by_hour[hour] = by_hour.get(hour, 0) + tokens
    told = [f"first at {prompt_hour} h"] if prompt_hour is not None else []
    return ", ".join([*told, *(f"{tokens:,} at {hour} h" for hour, tokens in by_hour.items())])


def device_times(engine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and times of a request's engine counters, to the millisecond."""
    return [
        (label, format_to_the_millisecond(engine[name]))
        for name, label in DEVICE_TIMES.items()
        if isinstance(engine.get(name), int | float)
    ]
