"""The simulation: requests in front, nodes that start, drain and are taken away, and a policy that is asked at each tick."""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Policy
from gainshare.capacity.simulation.node import Node, State
from gainshare.capacity.simulation.rates import Rates
from gainshare.capacity.simulation.results import Decision, Outcome
from gainshare.capacity.simulation.routing import Router, shortest
from gainshare.capacity.simulation.workload import DAY_S, Workload

NOTICE_S = 120.0
STEPS_SHOWN = 90  # of arrivals, to a policy
STEP_S = 10.0
TIMELINE_POINTS = 2_000
MOST_DECISIONS = 20_000


@dataclass(frozen=True, slots=True)
class Device:
    """A class of devices in the simulation: what the policy knows of it, its rates, and what it does not know.

    A node of a preemptible class lives ``lifetime_s`` on average, and gets a notice before its end. ``cache_blocks`` is
    how many prefix blocks a node keeps.
    """

    facts: ClassFacts
    rates: Rates
    lifetime_s: float = math.inf
    cache_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all policies of a comparison."""

    devices: Sequence[Device]
    objective: Objective
    initial: Mapping[str, int] | None = None
    budget_a_day: int | None = None
    seed: int = 0
    router: Router = shortest


Progress = Callable[[float], None]


def simulate(
    workload: Workload,
    policy: Policy,
    setting: Setting,
    *,
    name: str,
    tick_s: float = STEP_S,
    progress: Progress | None = None,
) -> Outcome:
    """Run the whole workload under a policy, from midnight on, until its last request has ended.

    ``initial`` nodes are ready at the beginning. ``progress`` hears the share that is done. Equal arguments give equal
    outcomes. Raises RuntimeError where requests are left that no node will ever answer.
    """
    return _Run(workload, policy, setting, name, tick_s, progress).outcome()


class _Run:
    """One run. Times are seconds since the workload's beginning."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        setting: Setting,
        name: str,
        tick_s: float,
        progress: Progress | None,
    ) -> None:
        self.workload, self.policy, self.setting = workload, policy, setting
        self.name, self.tick_s, self.progress = name, tick_s, progress
        self.facts = [device.facts for device in setting.devices]
        self.at_s: list[float] = workload.at_s.tolist()
        self.prompt: list[int] = workload.prompt_tokens.tolist()
        self.output: list[int] = workload.output_tokens.tolist()
        n = len(self.at_s)
        self.first = [math.nan] * n
        self.last = [math.nan] * n
        self.random = random.Random(setting.seed)
        self.events: list[tuple[float, int, int, Node | None, int]] = []
        self.n_events = 0
        self.nodes: list[Node] = []  # all that are not gone
        self.ready: list[Node] = []  # those that take requests
        self.queue: deque[int] = deque()
        self.n_present = self.n_answering = self.n_ended = self.n_nodes = self.cut = 0
        self.hits = self.asked = 0
        self.counts: deque[int] = deque(maxlen=STEPS_SHOWN)
        self.counted = 0  # requests in whole steps so far
        self.step_end_s = STEP_S
        self.hours: deque[list[int]] = deque()  # [hour, first tokens, late ones of them, slow answers]
        self.hour_end_s = 0.0
        self.promised_s = setting.objective.first_token_p99_s
        self.promised_token_s = setting.objective.token_p99_s
        self.state: Mapping[str, object] = {}
        self.decisions: list[Decision] = []
        self.wanted: dict[str, int] = {}
        self.node_s = [0.0] * len(self.facts)
        self.cost = 0.0  # micro-credits
        self.paid_until_s = 0.0
        self.day, self.cost_at_midnight = 0, 0.0
        self.timeline: list[tuple[float, int, int, int]] = []
        self.timeline_s = max(60.0, workload.end_s / TIMELINE_POINTS)

    def outcome(self) -> Outcome:
        for kind, facts in enumerate(self.facts):
            for _ in range((self.setting.initial or {}).get(facts.name, 0)):
                self._become_ready(self._order(kind, 0.0), 0.0)
        self._later(0.0, _TICK)
        self._later(0.0, _POINT)
        self._loop()
        first = np.array(self.first)
        outputs = self.workload.output_tokens
        several = outputs > 1
        tokens = (np.array(self.last)[several] - first[several]) / (outputs[several] - 1)
        return Outcome(
            self.name,
            round(self.cost),
            {facts.name: s / 3600 for facts, s in zip(self.facts, self.node_s, strict=True)},
            first - self.workload.at_s,
            tokens[~np.isnan(tokens)],
            self.cut,
            self.hits,
            self.asked,
            tuple(self.decisions),
            np.array(self.timeline, dtype=np.float64),
        )

    def _later(self, at_s: float, kind: int, node: Node | None = None) -> None:
        self.n_events += 1
        heapq.heappush(
            self.events, (at_s, self.n_events, kind, node, node.version if node is not None else 0)
        )

    def _loop(self) -> None:
        """Take arrivals and events in the order of time."""
        at_s, events, n = self.at_s, self.events, len(self.at_s)
        pop, number, now = heapq.heappop, 0, 0.0
        handlers = (self._work, self._tick, self._is_ready, self._notice, self._take_away, self._point)
        while self.n_ended < n:
            if number < n and at_s[number] <= events[0][0]:
                self._arrive(number, at_s[number])
                number += 1
                continue
            now, _, kind, node, version = pop(events)
            if kind == _WORK:
                assert node is not None
                if node.version == version:
                    self._work(now, node)
            else:
                handlers[kind](now, node)  # type: ignore[arg-type]  # each gets the node that it was planned with
        self._pay(max(self.workload.end_s, now))

    # requests

    def _arrive(self, request: int, now: float) -> None:
        self.n_present += 1
        if self.ready and not self.queue:
            node = self._choose(request, now)
            if node is not None:
                if node.running < node.slots:
                    self._admit(node, request, now)
                else:
                    node.queue.append(request)
                return
        self.queue.append(request)

    def _choose(self, request: int, now: float) -> Node | None:
        blocks = self.workload.blocks
        prefix = blocks[request] if blocks else ()

        def prompt_s(node: Node, hits: int) -> float:
            return node.rates.prompt_s(self.prompt[request], self._cached(request, hits))

        return self.setting.router(self.ready, prefix, prompt_s, now, request)

    def _cached(self, request: int, hits: int) -> int:
        """Tokens of the prompt that need no computing; the last one always does."""
        return min(hits * self.workload.block_tokens, self.prompt[request] - 1)

    def _admit(self, node: Node, request: int, now: float) -> None:
        tokens, cached, rates = self.prompt[request], 0, node.rates
        if node.cache is not None and self.workload.blocks:
            prefix = self.workload.blocks[request]
            cached = max(0, self._cached(request, node.cache.hits(prefix)))
            node.cache.keep(prefix)
            self.hits += cached
        self.asked += tokens
        steps = max(1, -(-(tokens - cached) // rates.step_tokens))
        before = node.version
        node.admit(request, rates.prompt_s(tokens, cached), steps, now)
        if node.version != before:
            self._later(node.due_s, _WORK, node)

    def _work(self, now: float, node: Node) -> None:
        first, ended = node.work(now, self.output)
        if first >= 0:
            self.first[first] = now
            self.n_answering += 1
            if not self.hours or now >= self.hour_end_s:
                self.hour_end_s = now // 3600 * 3600 + 3600
                self.hours.append([int(now // 3600), 0, 0, 0])
            counts = self.hours[-1]
            counts[1] += 1
            if now - self.at_s[first] > self.promised_s:
                counts[2] += 1
        if ended:
            for request, end_s in ended:
                self.last[request] = end_s
                if self._is_slow(request, end_s):
                    self.hours[-1][3] += 1
            self.n_answering -= len(ended)
            self._end(len(ended))
            self._fill(node, now)
        if node.due_s != math.inf and node.state is not State.GONE:
            self._later(node.due_s, _WORK, node)

    def _is_slow(self, request: int, end_s: float) -> bool:
        """Whether its tokens after the first took longer than promised."""
        return end_s - self.first[request] > self.promised_token_s * (self.output[request] - 1) > 0

    def _end(self, n: int) -> None:
        self.n_present -= n
        self.n_ended += n

    def _fill(self, node: Node, now: float) -> None:
        """Give free slots of a node to what waits for it, then to what waits in front; a draining one ends when it is idle."""
        while node.running < node.slots and node.queue:
            self._admit(node, node.queue.popleft(), now)
        if node.state is State.READY:
            while node.running < node.slots and self.queue:
                self._admit(node, self.queue.popleft(), now)
        elif node.state is not State.STARTING and not node.running:
            self._gone(node, now)

    # nodes

    def _order(self, kind: int, now: float) -> Node:
        self._pay(now)
        device = self.setting.devices[kind]
        self.n_nodes += 1
        node = Node(self.n_nodes, kind, device.facts.slots, device.rates, now, device.cache_blocks)
        self.nodes.append(node)
        return node

    def _become_ready(self, node: Node, now: float) -> None:
        node.state = State.READY
        self.ready.append(node)
        lifetime_s = self.setting.devices[node.kind].lifetime_s
        if lifetime_s != math.inf:
            end_s = now + self.random.expovariate(1 / lifetime_s)
            self._later(max(now, end_s - NOTICE_S), _NOTICE, node)
            self._later(end_s, _TAKE_AWAY, node)
        self._fill(node, now)

    def _is_ready(self, now: float, node: Node) -> None:
        if node.state is State.STARTING:
            self._become_ready(node, now)

    def _notice(self, now: float, node: Node) -> None:
        if node.state is State.READY:
            node.state = State.LEAVING
            self.ready.remove(node)
            self._fill(node, now)

    def _take_away(self, now: float, node: Node) -> None:
        """A preempted node: what had no first token begins again in front, what had one ends there, cut."""
        if node.state is State.GONE:
            return
        without, cut = node.lost()
        self.queue.extendleft(sorted(without, reverse=True))
        for request in cut:
            self.last[request] = now
        self.cut += len(cut)
        self.n_answering -= len(cut)
        self._end(len(cut))
        node.version += 1
        if node in self.ready:
            self.ready.remove(node)
        self._gone(node, now)

    def _drain(self, node: Node, now: float) -> None:
        if node.state is State.READY:
            self.ready.remove(node)
            node.state = State.DRAINING
        if node.state is State.STARTING or not node.running:
            self._gone(node, now)

    def _gone(self, node: Node, now: float) -> None:
        self._pay(now)
        node.state = State.GONE
        self.nodes.remove(node)

    def _pay(self, now: float) -> None:
        """Count what all nodes cost since the last change."""
        seconds = now - self.paid_until_s
        if seconds > 0:
            for node in self.nodes:
                self.node_s[node.kind] += seconds
                self.cost += seconds * self.facts[node.kind].price / 3600
            self.paid_until_s = now

    # the policy

    def _tick(self, now: float, _node: None) -> None:
        self._count_arrivals(now)
        load = Load(
            self.n_answering,
            self.n_present - self.n_answering,
            tuple(self.counts),
            STEP_S,
            self._late_share(now),
        )
        fleets = self._fleets()
        found = self.policy(now, load, fleets, self.facts, self._objective(now), self.state)
        self.state = found.state
        for kind, facts in enumerate(self.facts):
            fleet = fleets[facts.name]
            self._change(kind, found.nodes.get(facts.name, 0) - fleet.ready - fleet.starting, now)
        if found.nodes != self.wanted:
            self.wanted = dict(found.nodes)
            if len(self.decisions) < MOST_DECISIONS:
                self.decisions.append(Decision(now, self.wanted, found.reason))
        if self._is_stuck(now):
            raise RuntimeError(
                f"{self.name} leaves {self.n_present} requests without a node at {now:.0f} s: {found.reason}"
            )
        self._later(now + self.tick_s, _TICK)

    def _count_arrivals(self, now: float) -> None:
        came = self.n_present + self.n_ended
        while self.step_end_s <= now:
            until = bisect.bisect_left(self.at_s, self.step_end_s, self.counted, came)
            self.counts.append(until - self.counted)
            self.counted = until
            self.step_end_s += STEP_S

    def _late_share(self, now: float) -> float | None:
        """As `Load.late_share`, of the latest day by the hour; None before there was any request."""
        hour = int(now // 3600)
        while self.hours and self.hours[0][0] <= hour - 24:
            self.hours.popleft()
        came, late, slow = (sum(counts[n] for counts in self.hours) for n in (1, 2, 3))
        return max(late, slow) / came if came else None

    def _fleets(self) -> dict[str, Fleet]:
        tally = [[0, 0, 0] for _ in self.facts]
        for node in self.nodes:
            if node.state is State.READY:
                tally[node.kind][0] += 1
            elif node.state is State.STARTING:
                tally[node.kind][1] += 1
            elif node.state is State.LEAVING:
                tally[node.kind][0] += 1
                tally[node.kind][2] += 1
        return {facts.name: Fleet(*counts) for facts, counts in zip(self.facts, tally, strict=True)}

    def _objective(self, now: float) -> Objective:
        budget = self.setting.budget_a_day
        if budget is None:
            return self.setting.objective
        self._pay(now)
        if now // DAY_S > self.day:
            self.day, self.cost_at_midnight = int(now // DAY_S), self.cost
        left = math.floor(budget - (self.cost - self.cost_at_midnight))
        return replace(self.setting.objective, budget_left_today=left)

    def _change(self, kind: int, more: int, now: float) -> None:
        for _ in range(more):
            self._later(now + self.facts[kind].cold_start_s, _READY, self._order(kind, now))
        if more < 0:
            mine = [node for node in self.nodes if node.kind == kind]
            starting = [node for node in reversed(mine) if node.state is State.STARTING]
            idle_first = sorted(
                (node for node in mine if node.state is State.READY), key=lambda node: node.running
            )
            for node in [*starting, *idle_first][:-more]:
                self._drain(node, now)

    def _is_stuck(self, now: float) -> bool:
        """All requests have come, some wait, and for a day no node was wanted for them."""
        return now > self.workload.end_s + DAY_S and not self.nodes and bool(self.queue)

    def _point(self, now: float, _node: None) -> None:
        waiting = self.n_present - self.n_answering
        self.timeline.append((now, len(self.nodes), self.n_answering, waiting))
        if self.progress is not None:
            self.progress(self.n_ended / len(self.at_s))
        self._later(now + self.timeline_s, _POINT)


_WORK, _TICK, _READY, _NOTICE, _TAKE_AWAY, _POINT = range(6)
