"""Strategies of prices and usages for the tests of bills, and the bill as it was before prices had more terms."""

from hypothesis import strategies as st

from gainshare.ledger.pricing import MILLION, Arrival, Line, Prices, PriceTable, Usage

unit = st.integers(0, 10**13)
tokens = st.integers(0, 10**7)


@st.composite
def windows(draw: st.DrawFn) -> list[list[int]]:
    """Up to four windows that do not overlap; the last may pass midnight."""
    bounds = sorted(draw(st.sets(st.integers(0, 23), max_size=8)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    if pairs and draw(st.booleans()):
        bounds = [*bounds[1:], bounds[0]]
        pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    return [[first, end, draw(st.integers(0, MILLION))] for first, end in pairs]


@st.composite
def tiers(draw: st.DrawFn) -> list[list[int]]:
    begins = sorted(draw(st.sets(st.integers(0, 10**15), max_size=4)))
    return [[begin, draw(st.integers(0, 10**9))] for begin in begins]


prices = st.builds(
    PriceTable,
    cached_input=unit,
    fresh_input=unit,
    output=unit,
    long_above=st.integers(0, 2 * 10**7),
    long_cached_input=unit,
    long_fresh_input=unit,
    long_output=unit,
    off_peak_windows=windows(),
    memory_tiers=tiers(),
    memory_share_ppm=st.integers(0, MILLION),
)
hours = st.integers(0, 23)
arrivals = st.lists(st.builds(Arrival, hours, st.integers(0, 3), st.integers(0, 10**6)), max_size=6).map(
    tuple
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage whose output arrived in several hours, with some of it perhaps in none that is known."""
    came = draw(arrivals)
    return Usage(
        draw(tokens),
        draw(tokens),
        sum(each.tokens for each in came) + draw(st.integers(0, 10**6)),
        draw(st.none() | hours),
        came,
        draw(st.integers(0, 10**16)),
    )


def bill_of_three_lines(usage: Usage, price: Prices) -> tuple[Line, ...]:
    """The whole bill before windows, long context and memory."""
    lines = (
        ("cached_input", usage.cached_tokens, price.cached_input),
        ("fresh_input", usage.fresh_tokens, price.fresh_input),
        ("output", usage.output_tokens, price.output),
    )
    return tuple(Line(item, count, each, count * each // 1_000_000) for item, count, each in lines)
