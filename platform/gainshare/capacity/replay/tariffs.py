"""The tariffs that a replay compares: the flat one, and the price book's terms added one after another.

The flat tariff has the book's list prices for all tokens of a prompt, whatever the cache holds, at any time and at any
length.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gainshare.ledger.pricing import PriceTable, check_terms

MOST_PRICE = 10**15
HALF = 500_000

BOOK = PriceTable(
    cached_input=400_000,
    fresh_input=4_000_000,
    output=16_000_000,
    long_above=32_768,
    long_cached_input=400_000,
    long_fresh_input=4_000_000,
    long_output=8_000_000,
    off_peak_windows=((2, 10, HALF),),
    memory_tiers=((20 * 10**12, 100), (200 * 10**12, 200)),
    memory_share_ppm=50_000,
)
"""The book of a replay where no other one is given.

Fresh input and output have the prices that a new site starts with. The terms are those of the field: cached input at a
tenth; twice the input price and one and a half times the output price on tokens above 32,768 only; half price for eight
hours, the quietest of ServeGen's fortnight; cache memory from 20 GB-seconds on, at most 5 % of the tokens' price.
"""

FIRST_CACHED_INPUT = 1_000_000
"""Price of cached input that a new site starts with: a quarter of fresh input."""

PARTS = ("cache", "memory", "long context", "off-peak")
"""What is added to the flat tariff, in this order."""


class BookError(ValueError):
    """A file holds no price book. The message says what to do."""


def flat(book: PriceTable) -> PriceTable:
    """The book's list prices alone, cached input at the price of fresh input."""
    return PriceTable(cached_input=book.fresh_input, fresh_input=book.fresh_input, output=book.output)


def steps(book: PriceTable) -> tuple[PriceTable, ...]:
    """The flat tariff, then one more of ``PARTS`` each; the last one is the book itself."""
    cache = replace(flat(book), cached_input=book.cached_input)
    memory = replace(cache, memory_tiers=book.memory_tiers, memory_share_ppm=book.memory_share_ppm)
    long = replace(
        memory,
        long_above=book.long_above,
        long_cached_input=book.long_cached_input,
        long_fresh_input=book.long_fresh_input,
        long_output=book.long_output,
    )
    return flat(book), cache, memory, long, replace(long, off_peak_windows=book.off_peak_windows)


def read_book(path: Path) -> PriceTable:
    """Read a price book: a JSON object with the fields of a price version. Raises BookError."""
    names = [field.name for field in fields(PriceTable)]
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror}. Check the path.") from None
    except ValueError:
        raise BookError(f"{path} is not JSON. Give an object with {', '.join(names)}.") from None
    if not isinstance(document, dict):
        raise BookError(f"{path} is no JSON object. Give one with {', '.join(names)}.")
    if unknown := set(document) - set(names):
        raise BookError(f"{path}: unknown price {sorted(unknown)[0]}. There are {', '.join(names)}.")
    return _checked(path, document)


def _checked(path: Path, document: dict[str, Any]) -> PriceTable:
    try:
        book = PriceTable(**document)
        check_terms(book, most=MOST_PRICE)
    except (TypeError, ValueError) as error:
        raise BookError(f"{path} is no price book: {error}") from None
    return book
