"""All simulated rows, in order, with how many simulations each part gets."""

from collections.abc import Callable, Iterator

from benchmarks.power.abuses import abuse_rows
from benchmarks.power.direct_pairs import direct_rows
from benchmarks.power.false_awards import alpha_row, false_award_rows
from benchmarks.power.found import coverage_rows, found_rows, pairs_rows
from benchmarks.power.guards import guard_rows
from benchmarks.power.old_pairs import old_rows, tip_rows
from benchmarks.power.partner import partner_rows
from benchmarks.power.sharing import sharing_rows
from benchmarks.power.strategies import strategy_rows
from benchmarks.report import Row

SIMULATIONS, QUICK_SIMULATIONS = 300_000, 2_000
POWER_SHARE = 15  # power needs fewer simulations than errors of one in a thousand
Progress = Callable[[str], None]


def simulated_rows(runs: int, say: Progress = lambda _: None) -> list[Row]:
    """All rows, `runs` simulations in each cell of false gains; `say` is told what is being simulated."""
    few = max(runs // POWER_SHARE, min(runs, QUICK_SIMULATIONS // 2))
    parts: tuple[tuple[str, Callable[[int], Iterator[Row]], int], ...] = (
        ("awards without a gain", false_award_rows, runs),
        ("true gains", found_rows, few),
        ("pairs", pairs_rows, few),
        ("the confirmation's bound", coverage_rows, few),
        ("guard rails", guard_rows, few),
        ("control pairs", partner_rows, few // 2),
        ("strategies", strategy_rows, few),
        ("abuses", abuse_rows, few // 2),
        ("royalties", sharing_rows, max(1, few // 20)),
        ("old pairs", old_rows, few),
        ("direct pairs", direct_rows, few),
        ("scheduled checks", tip_rows, few),
    )
    rows = [alpha_row()]
    for what, make, count in parts:
        say(f"simulating {what}")
        rows.extend(make(count))
    return rows
