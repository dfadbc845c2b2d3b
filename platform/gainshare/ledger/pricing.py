"""Cost of a request: pure arithmetic on whole micro-credits.

Token prices are micro-credits per million tokens, memory prices micro-credits per GB-second (10^12 byte-milliseconds).
Each line item is floored once, so a bill never exceeds the exact amount, and never depends on the order of its lines
or on how its tokens are spread over windows of equal price. Factors and shares are whole millionths.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

MILLION = 1_000_000
TOKENS_PER_PRICE = MILLION
BYTE_MS_PER_PRICE = 10**12
HOURS = 24
MOST_TIERS = 16


class Prices(Protocol):
    """What a price version and a :class:`PriceTable` have; the table says what each term means."""

    @property
    def cached_input(self) -> int: ...
    @property
    def fresh_input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def long_above(self) -> int: ...
    @property
    def long_cached_input(self) -> int: ...
    @property
    def long_fresh_input(self) -> int: ...
    @property
    def long_output(self) -> int: ...
    @property
    def off_peak_windows(self) -> Sequence[Sequence[int]]: ...
    @property
    def memory_tiers(self) -> Sequence[Sequence[int]]: ...
    @property
    def memory_share_ppm(self) -> int: ...


@dataclass(frozen=True)
class PriceTable:
    """Prices without a database row. The defaults are neutral: only the three token prices count.

    ``long_above`` is a number of tokens; the ``long_`` prices are added for each token whose place in prompt and answer
    is above it. A window is (first hour, hour after the last, factor in millionths) in UTC and may pass midnight. A
    memory tier is (byte-milliseconds, price above them). All memory together costs at most ``memory_share_ppm``
    millionths of the token lines.
    """

    cached_input: int
    fresh_input: int
    output: int
    long_above: int = 0
    long_cached_input: int = 0
    long_fresh_input: int = 0
    long_output: int = 0
    off_peak_windows: Sequence[Sequence[int]] = ()
    memory_tiers: Sequence[Sequence[int]] = ()
    memory_share_ppm: int = 0


class Arrival(NamedTuple):
    """Tokens of one answer that arrived in one hour of the day (UTC)."""

    hour: int
    answer: int
    tokens: int


@dataclass(frozen=True)
class Usage:
    """Tokens of one request: input found in the prefix cache, input computed, output; and its cache memory.

    ``prompt_hour`` is the hour of the day (UTC) of the first token's arrival, ``arrivals`` those of the output in their
    order. Tokens without an hour cost the dearest one.
    """

    cached_tokens: int
    fresh_tokens: int
    output_tokens: int
    prompt_hour: int | None = None
    arrivals: tuple[Arrival, ...] = ()
    kv_byte_ms: int = 0

    def __post_init__(self) -> None:
        for count in (self.cached_tokens, self.fresh_tokens, self.output_tokens, self.kv_byte_ms):
            if not _is_whole(count):
                raise ValueError("token counts must be non-negative whole numbers")
        hours = [arrival.hour for arrival in self.arrivals]
        if self.prompt_hour is not None:
            hours.append(self.prompt_hour)
        if not all(_is_whole(hour) and hour < HOURS for hour in hours):
            raise ValueError("hours must be whole numbers from 0 to 23")
        if not all(_is_whole(arrival.answer) and _is_whole(arrival.tokens) for arrival in self.arrivals):
            raise ValueError("arrivals must be non-negative whole numbers")
        if sum(arrival.tokens for arrival in self.arrivals) > self.output_tokens:
            raise ValueError("more tokens arrived than were counted")

    @property
    def prompt_tokens(self) -> int:
        return self.cached_tokens + self.fresh_tokens


@dataclass(frozen=True)
class Line:
    """One line of a bill: ``quantity`` tokens or byte-milliseconds at ``unit_price`` make ``amount`` micro-credits.

    ``parts`` are (factor in millionths, tokens) where a window's factor applies, and (price, byte-milliseconds) of each
    tier of memory; ``unit_price`` is then that of the highest tier reached.
    """

    item: str
    quantity: int
    unit_price: int
    amount: int
    parts: tuple[tuple[int, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The line as usage rows store it; one without parts has the same four keys as ever."""
        line: dict[str, Any] = {
            "item": self.item,
            "quantity": self.quantity,
            "unit_price": self.unit_price,
            "amount": self.amount,
        }
        return line | ({"parts": [list(part) for part in self.parts]} if self.parts else {})


@dataclass(frozen=True)
class Bill:
    """The lines of one request, and their sum in micro-credits."""

    lines: tuple[Line, ...]
    total: int


def hour_factors(price: Prices) -> tuple[int, ...]:
    """The factor of each hour of the day (UTC), in millionths."""
    factors = [MILLION] * HOURS
    for first, end, factor in price.off_peak_windows:
        for hour in hours_of(first, end):
            factors[hour] = factor
    return tuple(factors)


def hours_of(first: int, end: int) -> list[int]:
    """Hours of a window from ``first`` to before ``end``; it passes midnight if ``end`` is the smaller one."""
    return [hour % HOURS for hour in range(first, end if end > first else end + HOURS)]


def bill(usage: Usage, price: Prices) -> Bill:
    """The bill of one request: cached input, fresh input, output, and what the price adds to them.

    The three lines of tokens are kept when they are zero, the others are not.
    """
    factors = hour_factors(price)
    dearest = max(factors)
    prompt_factor = dearest if usage.prompt_hour is None else factors[usage.prompt_hour]
    output, long_output = _output(usage, factors, dearest, price.long_above)
    lines = [
        _line("cached_input", {prompt_factor: usage.cached_tokens}, price.cached_input),
        _line("fresh_input", {prompt_factor: usage.fresh_tokens}, price.fresh_input),
        _line("output", output, price.output),
    ]
    long_cached = _above(usage.cached_tokens, price.long_above)
    long_fresh = _above(usage.prompt_tokens, price.long_above) - long_cached
    more = (
        _line("long_cached_input", {prompt_factor: long_cached}, price.long_cached_input),
        _line("long_fresh_input", {prompt_factor: long_fresh}, price.long_fresh_input),
        _line("long_output", long_output, price.long_output),
    )
    lines += [line for line in more if line.quantity and line.unit_price]
    tokens = sum(line.amount for line in lines)
    memory = _memory_line(usage.kv_byte_ms, price, most=tokens * price.memory_share_ppm // MILLION)
    if memory is not None:
        lines.append(memory)
    return Bill(tuple(lines), sum(line.amount for line in lines))


def upper_bound(prompt_tokens: int, max_tokens: int, price: Prices) -> int:
    """Upper bound, in micro-credits, of a bill with this prompt and at most ``max_tokens`` of output.

    Takes the dearest hour, the dearest kind of input, and memory at its cap.
    """
    dearest = max(hour_factors(price))
    long_prompt = _above(prompt_tokens, price.long_above)
    long_output = max(0, max_tokens - max(0, price.long_above - prompt_tokens))
    lines = (
        (prompt_tokens, max(price.cached_input, price.fresh_input)),
        (max_tokens, price.output),
        (long_prompt, max(price.long_cached_input, price.long_fresh_input)),
        (long_output, price.long_output),
    )
    tokens = sum(_line("", {dearest: quantity}, unit_price).amount for quantity, unit_price in lines)
    if not _has_memory_price(price):
        return tokens
    return tokens + tokens * price.memory_share_ppm // MILLION


def affordable_output(available: int, prompt_tokens: int, price: Prices) -> int | None:
    """Largest number of output tokens that ``available`` micro-credits cover; None if output is free.

    Below zero if the prompt alone is not covered.
    """
    if upper_bound(prompt_tokens, 0, price) > available:
        return -1
    if (price.output == 0 and price.long_output == 0) or max(hour_factors(price)) == 0:
        return None
    low, high = 0, 1
    while upper_bound(prompt_tokens, high, price) <= available:
        low, high = high, high * 2
    while high - low > 1:  # low is covered, high is not
        middle = (low + high) // 2
        if upper_bound(prompt_tokens, middle, price) <= available:
            low = middle
        else:
            high = middle
    return low


def memory_cost(byte_ms: int, tiers: Sequence[Sequence[int]]) -> int:
    """Exact cost of memory without its cap, in 10^-12 micro-credits."""
    return sum(part * price for price, part in _tier_parts(byte_ms, tiers))


def rises(new: Prices, old: Prices) -> tuple[str, ...]:
    """Terms by which a bill under ``new`` can be dearer than under ``old``; empty if none ever is.

    Compares term by term. So it also names a term that other terms would make up for.
    """
    found = [
        name for name in ("cached_input", "fresh_input", "output") if getattr(new, name) > getattr(old, name)
    ]
    long = ("long_cached_input", "long_fresh_input", "long_output")
    if any(getattr(new, name) for name in long) and new.long_above < old.long_above:
        found.append("long_above")
    found += [name for name in long if getattr(new, name) > getattr(old, name)]
    if any(after > before for after, before in zip(hour_factors(new), hour_factors(old), strict=True)):
        found.append("off_peak_windows")
    if _has_memory_price(new):
        if new.memory_share_ppm > old.memory_share_ppm:
            found.append("memory_share_ppm")
        if _dearer_memory(new.memory_tiers, old.memory_tiers):
            found.append("memory_tiers")
    return tuple(found)


def check_terms(price: Prices, *, most: int) -> None:
    """Raises ValueError with the reason if a term is no such term. ``most`` bounds every price."""
    names = ("cached_input", "fresh_input", "output", "long_cached_input", "long_fresh_input", "long_output")
    if not all(_is_whole(getattr(price, name)) and getattr(price, name) <= most for name in names):
        raise ValueError("Prices must be non-negative whole micro-credits per million tokens.")
    if not _is_whole(price.long_above) or price.long_above > most:
        raise ValueError("long_above must be a non-negative whole number of tokens.")
    if not _is_whole(price.memory_share_ppm) or price.memory_share_ppm > MILLION:
        raise ValueError("memory_share_ppm must be a whole number of millionths, at most 1000000.")
    _check_windows(price.off_peak_windows)
    _check_tiers(price.memory_tiers, most)


def _check_windows(windows: Sequence[Sequence[int]]) -> None:
    taken: set[int] = set()
    for window in windows:
        if len(window) != 3 or not all(_is_whole(value) for value in window):
            raise ValueError("A window is three whole numbers: first hour, hour after the last, millionths.")
        first, end, factor = window
        if first >= HOURS or end > HOURS or first == end or factor > MILLION:
            raise ValueError(
                "A window has hours from 0 to 24 that differ, and a factor of at most 1000000 millionths."
            )
        hours = set(hours_of(first, end))
        if hours & taken:
            raise ValueError("Off-peak windows must not overlap.")
        taken |= hours


def _check_tiers(tiers: Sequence[Sequence[int]], most: int) -> None:
    if len(tiers) > MOST_TIERS:
        raise ValueError(f"There can be at most {MOST_TIERS} memory tiers.")
    previous = -1
    for tier in tiers:
        if len(tier) != 2 or not all(_is_whole(value) and value <= most for value in tier):
            raise ValueError(
                "A memory tier is two whole numbers: byte-milliseconds and the price above them."
            )
        if tier[0] <= previous:
            raise ValueError("Memory tiers must begin at ever more byte-milliseconds.")
        previous = tier[0]


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _above(tokens: int, threshold: int) -> int:
    return max(0, tokens - threshold)


def _output(
    usage: Usage, factors: Sequence[int], dearest: int, threshold: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Output tokens by their factor: all of them, and those above the threshold."""
    rest = usage.output_tokens - sum(arrival.tokens for arrival in usage.arrivals)
    counted = [(factors[each.hour], each.answer, each.tokens) for each in usage.arrivals]
    ends: dict[int, int] = {}  # of each answer, the prompt included
    output: dict[int, int] = {}
    above: dict[int, int] = {}
    for factor, answer, tokens in [*counted, (dearest, -1, rest)]:
        begin = ends.get(answer, usage.prompt_tokens)
        ends[answer] = begin + tokens
        output[factor] = output.get(factor, 0) + tokens
        above[factor] = above.get(factor, 0) + _above(begin + tokens, threshold) - _above(begin, threshold)
    return output, above


def _line(item: str, by_factor: Mapping[int, int], unit_price: int) -> Line:
    """One floored line over tokens of several factors."""
    exact = unit_price * sum(factor * tokens for factor, tokens in by_factor.items())
    parts = tuple(sorted((factor, tokens) for factor, tokens in by_factor.items() if tokens))
    if all(factor == MILLION for factor, _ in parts):
        parts = ()
    return Line(item, sum(by_factor.values()), unit_price, exact // (TOKENS_PER_PRICE * MILLION), parts)


def _memory_line(byte_ms: int, price: Prices, *, most: int) -> Line | None:
    """The line of memory, at most ``most`` micro-credits; None without a price or memory."""
    parts = tuple(_tier_parts(byte_ms, price.memory_tiers))
    if not _has_memory_price(price) or not parts:
        return None
    amount = min(most, memory_cost(byte_ms, price.memory_tiers) // BYTE_MS_PER_PRICE)
    return Line("memory", byte_ms, parts[-1][0], amount, parts)


def _has_memory_price(price: Prices) -> bool:
    return price.memory_share_ppm > 0 and any(unit_price for _, unit_price in price.memory_tiers)


def _tier_parts(byte_ms: int, tiers: Sequence[Sequence[int]]) -> Iterable[tuple[int, int]]:
    """Price and byte-milliseconds of each tier that is reached."""
    ends = [above for above, _ in tiers[1:]] + [byte_ms]
    for (above, unit_price), end in zip(tiers, ends, strict=False):
        if byte_ms > above:
            yield unit_price, min(end, byte_ms) - above


def _dearer_memory(new: Sequence[Sequence[int]], old: Sequence[Sequence[int]]) -> bool:
    """Whether memory costs more under ``new`` for some amount: both are straight between their tiers' beginnings."""
    begins = {above for above, _ in [*new, *old]}
    if any(memory_cost(begin, new) > memory_cost(begin, old) for begin in begins):
        return True
    return bool(new) and new[-1][1] > (old[-1][1] if old else 0)
