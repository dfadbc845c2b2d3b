"""A web process's copy of the shared view, and the order of nodes that it gives a request. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from gainshare.capacity.models import NodeState
from gainshare.capacity.routing.analysis import Analysis
from gainshare.capacity.routing.choice import preference
from gainshare.capacity.routing.estimates import NodeFacts, bounded_rates, estimate
from gainshare.capacity.routing.exchange import PoolNode, SeatSums, View
from gainshare.capacity.routing.rates import Counted, Rates, rates_of
from gainshare.capacity.routing.seats import Candidate

MOST_DIGESTS = 20_000  # of one node; the ones used longest ago are dropped
LEAVES_SOON = timedelta(seconds=60)  # a node with notice gets new requests only where there is no other


@dataclass(frozen=True, slots=True)
class Serving:
    """A node that can be asked now: its key in the tables, and what the pool says of it. Static nodes have no class."""

    key: str
    slots: int
    device_class: str = ""
    price: int = 0
    is_preemptible: bool = False
    leaves_at: datetime | None = None
    tree: str = ""
    is_former: bool = False

    @classmethod
    def of(cls, node: PoolNode) -> Serving:
        return cls(
            node.key,
            node.slots,
            node.device_class,
            node.price,
            node.is_preemptible,
            node.leaves_at,
            node.tree,
            node.is_former,
        )


class SharedView:
    """The newest view, measured rates, and which beginnings of prompts each node has in its cache."""

    def __init__(self) -> None:
        self.view = View()
        self._sums: Mapping[tuple[str, str, str], Counted] = {}
        self._classes: Mapping[tuple[str, str], Rates] = {}
        self._digests: dict[str, OrderedDict[int, None]] = {}
        self._own: dict[str, dict[UUID, SeatSums]] = {}  # seats of this process, by node

    def update(self, view: View) -> None:
        self.view = view
        for node, digest in reversed(view.blocks):  # the latest ones last
            self.computed(node, (digest,))

    def update_rates(
        self, sums: Mapping[tuple[str, str, str], Counted], classes: Mapping[tuple[str, str], Rates]
    ) -> None:
        self._sums, self._classes = sums, classes

    def seated(self, request_id: UUID, node: str, *, prefill_left: int, output_left: int) -> None:
        """A request of this process has `node`."""
        self._own.setdefault(node, {})[request_id] = SeatSums(1, max(prefill_left, 0), max(output_left, 0))

    def prefilled(self, request_id: UUID, node: str) -> None:
        """A request of this process has its first token."""
        if (seat := self._own.get(node, {}).get(request_id)) is not None:
            self._own[node][request_id] = SeatSums(1, 0, seat.output_left)

    def left(self, request_id: UUID, node: str) -> None:
        """A request of this process has left `node`."""
        seats = self._own.get(node, {})
        seats.pop(request_id, None)
        if not seats:
            self._own.pop(node, None)

    def seats_at(self, node: str) -> SeatSums:
        """Seats at `node`: the other processes' as last read, and this process's as they are now."""
        others, own = self.view.seats.get(node, SeatSums()), self._own.get(node, {}).values()
        return SeatSums(
            others.running + len(own),
            others.prefill_left + sum(seat.prefill_left for seat in own),
            others.output_left + sum(seat.output_left for seat in own),
        )

    def computed(self, node: str, digests: Iterable[int]) -> None:
        """Remember that `node` has computed these beginnings."""
        known = self._digests.setdefault(node, OrderedDict())
        for digest in digests:
            known[digest] = None
            known.move_to_end(digest)
        while len(known) > MOST_DIGESTS:
            known.popitem(last=False)

    def forget(self, node: str) -> None:
        """Forget the digests of a node that was started again or is gone."""
        self._digests.pop(node, None)

    def ready_nodes(self, model: str) -> list[PoolNode]:
        return [node for node in self.view.nodes if node.model == model and node.state == NodeState.READY]

    def hit_tokens(self, node: str, analysis: Analysis) -> int:
        """Prompt tokens that `node` is expected to have in its cache. Digests are salted: only the caller's own match."""
        known = self._digests.get(node)
        if not known:
            return 0
        for depth in range(len(analysis.digests), 0, -1):
            if analysis.digests[depth - 1] in known:
                return analysis.tokens_of(depth)
        return 0

    def facts(self, node: Serving, model: str) -> NodeFacts:
        """What the estimates need to know about `node`."""
        seats = self.seats_at(node.key)
        sums = self._sums.get((node.key, model, node.device_class), Counted())
        of_class = self._classes.get((model, node.device_class), Rates()) if node.device_class else Rates()
        measured_s = (sums.prefill_ms + sums.decode_ms) / 1000
        rates = bounded_rates(rates_of(sums, node.slots), of_class, measured_s)
        return NodeFacts(
            key=node.key,
            slots=node.slots,
            running=seats.running,
            prefill_left=seats.prefill_left,
            output_left=seats.output_left,
            rates=rates,
            is_measured=rates.prefill_tokens_per_s > 0,
            device_class=node.device_class,
            price=node.price,
            is_preemptible=node.is_preemptible,
        )

    def candidates(
        self, nodes: Sequence[Serving], model: str, analysis: Analysis, *, seed: int, now: datetime
    ) -> tuple[Candidate, ...]:
        """`nodes` in the order in which the request should get them. The same state and seed give the same order."""
        hits = {node.key: self.hit_tokens(node.key, analysis) for node in nodes}
        facts = [self.facts(node, model) for node in nodes]
        estimates = {
            fact.key: estimate(fact, prompt_tokens=analysis.prompt_tokens, hit_tokens=hits[fact.key])
            for fact in facts
        }
        order = preference(
            facts, estimates, seed=seed, priority=analysis.priority, deadline_s=analysis.deadline_s
        )
        by_key = {node.key: node for node in nodes}
        # The sort is stable: within each half the preference stays.
        leaving = sorted(order, key=lambda key: _leaves_soon(by_key[key], now))
        return tuple(
            Candidate(key, by_key[key].slots, by_key[key].device_class, hits[key]) for key in leaving
        )


def _leaves_soon(node: Serving, now: datetime) -> bool:
    return node.leaves_at is not None and node.leaves_at <= now + LEAVES_SOON
