"""Cost of a request: pure arithmetic on whole micro-credits.

Prices are micro-credits per million tokens. Each line item is floored once, so a bill never exceeds the exact
amount, and never depends on the order of its lines.
"""

from dataclasses import dataclass
from typing import Protocol

TOKENS_PER_PRICE = 1_000_000


class Prices(Protocol):
    """Micro-credits per million tokens; a PriceVersion has them."""

    @property
    def cached_input(self) -> int: ...
    @property
    def fresh_input(self) -> int: ...
    @property
    def output(self) -> int: ...


@dataclass(frozen=True)
class Usage:
    """Tokens of one request: input found in the prefix cache, input computed, output."""

    cached_tokens: int
    fresh_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        for count in (self.cached_tokens, self.fresh_tokens, self.output_tokens):
            if type(count) is not int or count < 0:
                raise ValueError("token counts must be non-negative whole numbers")


@dataclass(frozen=True)
class Line:
    """One line of a bill. ``unit_price`` is micro-credits per million tokens, ``amount`` micro-credits."""

    item: str
    quantity: int
    unit_price: int
    amount: int


@dataclass(frozen=True)
class Bill:
    """The lines of one request, and their sum in micro-credits."""

    lines: tuple[Line, ...]
    total: int


def line(item: str, quantity: int, unit_price: int) -> Line:
    """One floored line."""
    return Line(item, quantity, unit_price, quantity * unit_price // TOKENS_PER_PRICE)


def bill(usage: Usage, price: Prices) -> Bill:
    """The bill of one request: cached input, fresh input, output. Lines of zero tokens are kept."""
    lines = (
        line("cached_input", usage.cached_tokens, price.cached_input),
        line("fresh_input", usage.fresh_tokens, price.fresh_input),
        line("output", usage.output_tokens, price.output),
    )
    return Bill(lines, sum(item.amount for item in lines))


def upper_bound(prompt_tokens: int, max_tokens: int, price: Prices) -> int:
    """Upper bound, in micro-credits, of a bill with this prompt and at most ``max_tokens`` of output."""
    dearest_input = max(price.cached_input, price.fresh_input)
    prompt = line("input", prompt_tokens, dearest_input)
    return prompt.amount + line("output", max_tokens, price.output).amount


def affordable_output(available: int, prompt_tokens: int, price: Prices) -> int | None:
    """Largest number of output tokens that ``available`` micro-credits cover; None if output is free.

    Below zero if the prompt alone is not covered.
    """
    left = available - upper_bound(prompt_tokens, 0, price)
    if left < 0:
        return -1
    if price.output == 0:
        return None
    # floor(n * price / 1e6) <= left  <=>  n * price < (left + 1) * 1e6
    return ((left + 1) * TOKENS_PER_PRICE - 1) // price.output
