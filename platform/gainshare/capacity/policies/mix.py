"""The cheapest mix of classes whose requests do not wait too long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gainshare.capacity.policies.observed import ClassFacts, Objective
from gainshare.capacity.policies.waiting import (
    LATE_SHARE,
    first_token_p99_s,
    queued_share,
    wait_p99_s,
)

NOTICE_S = 120.0  # that clouds give before they take a preemptible device


@dataclass(frozen=True, slots=True)
class Needs:
    """What a mix must do: a bound of the rate, the dispersion of arrivals, and slots that are used in any case."""

    rate: float
    dispersion: float
    objective: Objective
    used_slots: int = 0


def usable_slots(facts: ClassFacts, objective: Objective) -> int:
    """Slots of a node that can be used without a token taking longer than promised; 0 where even one is too slow."""
    if facts.token_full_s <= objective.token_p99_s or facts.slots < 2:
        return facts.slots if max(facts.token_alone_s, 0) <= objective.token_p99_s else 0
    if facts.token_alone_s > objective.token_p99_s:
        return 0
    share = (objective.token_p99_s - facts.token_alone_s) / (facts.token_full_s - facts.token_alone_s)
    return 1 + int(share * (facts.slots - 1))


def cost(nodes: Mapping[str, int], classes: Sequence[ClassFacts]) -> int:
    """Micro-credits an hour."""
    return sum(nodes.get(facts.name, 0) * facts.price for facts in classes)


def expected_p99_s(nodes: Mapping[str, int], classes: Sequence[ClassFacts], needs: Needs) -> float:
    """99th percentile of the time to the first token that a mix would give."""
    slots, ends, prompt = 0, 0.0, 0.0
    for facts in classes:
        n = nodes.get(facts.name, 0)
        usable = usable_slots(facts, needs.objective)
        if n and usable:
            slots += n * usable
            ends += n * facts.requests_per_s * usable / facts.slots
            prompt = max(prompt, facts.first_token_s)
    if not slots:
        return 0.0 if needs.rate <= 0 and not needs.used_slots else math.inf
    wait_s = wait_p99_s(needs.rate, slots, ends, needs.dispersion)
    if (readers := _Readers.of(nodes, classes, needs)) is not None:
        wait_s = max(wait_s, readers.wait_p99_s(needs))
    return first_token_p99_s(prompt, wait_s)


@dataclass(frozen=True, slots=True)
class _Readers:
    """A mix as it reads prompts: one at a time on each node, whatever its slots, ``per_s`` in all.

    ``alone_per_s`` is how many requests it answers where each has a node of its own.
    """

    nodes: int
    per_s: float
    alone_per_s: float
    spread: float
    held_up_share: float

    @classmethod
    def of(cls, nodes: Mapping[str, int], classes: Sequence[ClassFacts], needs: Needs) -> _Readers | None:
        """None where a class's times are not known."""
        used = [
            (nodes[facts.name], facts)
            for facts in classes
            if nodes.get(facts.name, 0) and usable_slots(facts, needs.objective)
        ]
        if not used or any(facts.read_s <= 0 for _, facts in used):
            return None
        return cls(
            sum(n for n, _ in used),
            sum(n / facts.read_s for n, facts in used),
            sum(n / max(facts.alone_s, facts.read_s) for n, facts in used),
            max(facts.read_spread for _, facts in used),
            max(facts.held_up_share for _, facts in used),
        )

    def wait_p99_s(self, needs: Needs) -> float:
        return wait_p99_s(needs.rate, self.nodes, self.per_s, needs.dispersion, self.spread)

    def together_share(self, needs: Needs) -> float:
        """Share of requests that find no node idle."""
        return queued_share(needs.rate, self.nodes, self.alone_per_s, needs.dispersion)


def expected_slow_share(nodes: Mapping[str, int], classes: Sequence[ClassFacts], needs: Needs) -> float:
    """Share of answers whose tokens would come too slowly.

    A prompt that finds no node idle is read while an answer before it is written.
    """
    readers = _Readers.of(nodes, classes, needs)
    return 0.0 if readers is None else readers.held_up_share * readers.together_share(needs)


def suffices(nodes: Mapping[str, int], classes: Sequence[ClassFacts], needs: Needs) -> bool:
    """Whether a mix keeps the objective, also without one preemptible node that is replaced too late after its notice."""
    if not _is_enough(nodes, classes, needs):
        return False
    return all(
        not facts.is_preemptible
        or facts.cold_start_s <= NOTICE_S
        or not nodes.get(facts.name, 0)
        or _is_enough({**nodes, facts.name: nodes[facts.name] - 1}, classes, needs)
        for facts in classes
    )


def _is_enough(nodes: Mapping[str, int], classes: Sequence[ClassFacts], needs: Needs) -> bool:
    if sum(nodes.get(facts.name, 0) * facts.slots for facts in classes) < needs.used_slots:
        return False
    # What a class needs for a long prompt alone no other node makes shorter.
    floor = max((facts.first_token_s for facts in classes if nodes.get(facts.name, 0)), default=0.0)
    promised = max(needs.objective.first_token_p99_s, floor)
    if expected_slow_share(nodes, classes, needs) > LATE_SHARE:
        return False
    return expected_p99_s(nodes, classes, needs) <= promised


def cheapest(
    classes: Sequence[ClassFacts], needs: Needs, *, least: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The cheapest mix that suffices and has at least ``least`` nodes; all that there are where none does.

    Nodes of a class that is too slow for the objective are never added.
    """
    least = least or {}
    bounds = {
        facts.name: (
            min(least.get(facts.name, 0), facts.max_nodes),
            facts.max_nodes if usable_slots(facts, needs.objective) else least.get(facts.name, 0),
        )
        for facts in classes
    }
    full = {name: max(bound) for name, bound in bounds.items()}
    if not suffices(full, classes, needs):
        return full
    found = _search(list(classes), {}, bounds, classes, needs, math.inf)
    return found[1] if found else full


def _search(
    open_classes: list[ClassFacts],
    chosen: dict[str, int],
    bounds: Mapping[str, tuple[int, int]],
    classes: Sequence[ClassFacts],
    needs: Needs,
    best: float,
) -> tuple[float, dict[str, int]] | None:
    """All numbers of all classes but the last one, whose least number is found by halving; dearer branches are cut."""
    facts, *others = open_classes
    low, high = bounds[facts.name]
    if not others:
        if not suffices({**chosen, facts.name: high}, classes, needs):
            return None
        while low < high:
            middle = (low + high) // 2
            if suffices({**chosen, facts.name: middle}, classes, needs):
                high = middle
            else:
                low = middle + 1
        nodes = {**chosen, facts.name: high}
        return cost(nodes, classes), nodes
    found: tuple[float, dict[str, int]] | None = None
    for n in range(low, high + 1):
        nodes = {**chosen, facts.name: n}
        if cost(nodes, classes) >= best:
            break
        below = _search(others, nodes, bounds, classes, needs, best)
        if below is not None and below[0] < best:
            best, found = below[0], below
    return found
