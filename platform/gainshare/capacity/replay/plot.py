"""Plot of a replay: what users pay by the size of the cache, one line for each trace."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.line_chart import Line, Panel, draw
from gainshare.capacity.replay.fleet import Nodes
from gainshare.capacity.replay.rows import Replayed


def plot(replayed: Sequence[Replayed], nodes: Nodes) -> str:
    """An SVG document. Raises ValueError where no trace was replayed with a bounded cache."""
    lines = [_line(each, nodes) for each in replayed if nodes.cache_tokens and each.has_prefixes]
    panels = [Panel(f"{line.name}: cost against the flat tariff (%)", [line]) for line in lines]
    return draw(
        "Users' cost against flat per-token pricing",
        panels,
        x_name="cached tokens of all nodes",
        is_x_log=True,
    )


def _line(each: Replayed, nodes: Nodes) -> Line:
    changes = {tokens: costs.change for tokens, costs in each.by_cache.items() if tokens is not None}
    changes[(nodes.cache_tokens or 0) * nodes.number] = each.costs.change
    sizes = sorted(changes)
    return Line(each.name, sizes, [100 * changes[size] for size in sizes], has_markers=True)
