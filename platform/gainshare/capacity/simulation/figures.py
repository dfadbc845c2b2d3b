"""Figures of simulations, as rows in the shape of all figures of this project."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import Row
from gainshare.capacity.simulation.comparison import OURS, Compared
from gainshare.capacity.simulation.results import Outcome, percentile

TARGET = "cheaper at equal p99"


def about(outcome: Outcome) -> str:
    """What a run costs and how long its requests wait, in one line."""
    cut = f", {outcome.cut} answers cut" if outcome.cut else ""
    return (
        f"{outcome.mean_nodes:.2f} nodes on average, p99 of the first token {outcome.first_token_p99_s:.2f} s, "
        f"of a token {1000 * outcome.token_p99_s:.0f} ms, {len(outcome.decisions)} decisions{cut}"
    )


def fleet_rows(outcome: Outcome) -> list[Row]:
    """Latencies and cost of one run by itself."""
    first, token = outcome.first_token_s, outcome.token_s
    values = (
        ("first token, median", percentile(first, 50), "s"),
        ("first token, p99", percentile(first, 99), "s"),
        ("time for each token, median", 1000 * percentile(token, 50), "ms"),
        ("time for each token, p99", 1000 * percentile(token, 99), "ms"),
        ("requests", len(first), ""),
        ("cost", outcome.cost / 1_000_000, "credits"),
    )
    return [
        Row(name, value if isinstance(value, int) else round(value, 4), unit, None, None, about(outcome))
        for name, value, unit in values
    ]


def comparison_rows(compared: Compared, label: str) -> list[Row]:
    """The fixed fleet, each policy against it, and ours against the best of the published ones."""
    goal = compared.objective
    promise = f"{goal.first_token_p99_s:g} s and {1000 * goal.token_p99_s:g} ms"
    rows = [
        Row(
            f"{label}: smallest fixed fleet",
            compared.fixed_nodes,
            "nodes",
            None,
            None,
            f"meets p99 of {promise}: {about(compared.fixed)}; {compared.fixed.cost / 1e6:,.1f} credits",
        )
    ]
    for name, outcome in compared.outcomes.items():
        rows.append(_saving(compared, outcome, f"{label}: {name}", is_ours=name == OURS))
    for base, outcome in compared.tuned.items():
        rows.append(_saving(compared, outcome, f"{label}: {base}, tuned"))
    if OURS in compared.outcomes and len(compared.outcomes) > 1:
        rows.append(_against(compared, f"{label}: {OURS} against the best published policy"))
    return rows


def _saving(compared: Compared, outcome: Outcome, name: str, *, is_ours: bool = False) -> Row:
    saved = compared.saved(outcome)
    meets = compared.meets(outcome)
    says = "" if meets else "misses the objective: "
    return Row(
        name,
        round(-100 * saved, 1),
        "% of the fixed fleet's cost",
        TARGET if is_ours else None,
        (meets and saved > 0) if is_ours else None,
        f"{says}{outcome.policy}, {about(outcome)}",
    )


def _against(compared: Compared, name: str) -> Row:
    ours, best = compared.outcomes[OURS], compared.best_published()
    if best is None:
        tried = "as published or with other targets" if compared.tuned else "with its published targets"
        why = f"no published policy meets the objective {tried}"
        return Row(name, None, "%", TARGET, compared.meets(ours), why)
    change = 100 * (ours.cost / best.cost - 1)
    return Row(
        name,
        round(change, 1),
        "%",
        TARGET,
        compared.meets(ours) and change < 0,
        f"{best.policy} costs least of those that meet the objective: {about(best)}",
    )


def bound_row(mean_to_peak: float, ours: float, label: str) -> Row:
    """What was saved beside the bound of a fleet that always has what the load needs, and a fixed one its peak."""
    return Row(
        f"{label}: saved, beside the bound",
        round(100 * ours, 1),
        "%",
        None,
        None,
        f"bound 1 - mean/peak = {100 * (1 - mean_to_peak):.1f} % (mean/peak {mean_to_peak:.2f})",
    )


def routing_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Hit rate and p99 of each way of routing; prefix-aware is to be the best of all in both."""
    rows = []
    aware = next(one for one in outcomes if one.policy == "prefix-aware")
    others = [one for one in outcomes if one is not aware]
    for one in outcomes:
        is_aware = one is aware
        hits = all(one.hit_rate >= other.hit_rate for other in others)
        fast = all(one.first_token_p99_s <= other.first_token_p99_s for other in others)
        target = "not behind the others" if is_aware else None
        how = about(one)
        rows.append(
            Row(
                f"{one.policy}: prompt tokens from the cache",
                round(100 * one.hit_rate, 1),
                "%",
                target,
                hits if is_aware else None,
                how,
            )
        )
        rows.append(
            Row(
                f"{one.policy}: first token, p99",
                round(one.first_token_p99_s, 2),
                "s",
                target,
                fast if is_aware else None,
                how,
            )
        )
    return rows
