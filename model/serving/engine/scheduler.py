"""Scheduler: continuous batching over a block pool, without a clock, threads or tensors.

Each step carries one token of every sequence that decodes; what is left of the token budget reads prompts in chunks,
those of the least served owner first; what is still left verifies draft tokens. So a long prompt slows others down by one
chunk at most. A sequence starts when there are blocks for all of its known tokens; when a running one then needs
another block and none is left, the lowest in rank releases all of its blocks and waits to be computed again. The
highest in rank always advances and any sequence fits alone, so every one ends. Where every layer has a window, a sequence
releases the blocks that all of them have passed.

Who starts next: the highest priority, where each grows by one for every `AGEING_NS` that its oldest sequence waits;
within it the owner that was served the fewest tokens; within that the first to arrive. No sequence is
overtaken because of its size.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from model.serving.engine.blocks import GONE, BlockPool, first_seen_block
from model.serving.engine.fairness import VirtualTokenCounter
from model.serving.engine.sequence import Phase, SequenceState

AGEING_NS = 10_000_000_000

Draft = Callable[[SequenceState, int], Sequence[int]]  # up to so many draft tokens of a sequence


class NeverFitsError(ValueError):
    """The whole pool is too small for this sequence alone."""


@dataclass(eq=False)
class Work:
    """One sequence's part of a step: its next `n_tokens` known tokens, then `drafts`."""

    sequence: SequenceState
    n_tokens: int
    drafts: Sequence[int] = ()

    @property
    def n_new(self) -> int:
        """Number of computed tokens: known ones and draft tokens."""
        return self.n_tokens + len(self.drafts)

    @property
    def n_logits(self) -> int:
        """Number of rows of logits: none within a prompt, one at the end of the known tokens, one more per draft token."""
        return 1 + len(self.drafts) if self.n_tokens == self.sequence.n_left else 0

    @property
    def tokens(self) -> list[int]:
        start = self.sequence.n_computed
        return [*self.sequence.tokens[start : start + self.n_tokens], *self.drafts]


@dataclass
class Plan:
    """One step. `copies` (source, target) are made in this order before it is computed."""

    works: list[Work] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    started: list[SequenceState] = field(default_factory=list)
    preempted: list[SequenceState] = field(default_factory=list)


class Scheduler:
    """Owns the waiting and running sequences, and their blocks. The caller passes the time.

    `window`: the widest sliding window of the model's layers, the query included; None if one layer has no window.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_running: int,
        step_tokens: int,
        max_drafts: int = 0,
        window: int | None = None,
    ) -> None:
        if not 1 <= max_running < step_tokens:
            raise ValueError(
                f"step_tokens ({step_tokens}) must exceed max_running ({max_running}), which must be at least 1: "
                "a step computes a token of each answer and some of a prompt"
            )
        self.pool, self.window = pool, window
        self.max_running, self.step_tokens, self.max_drafts = max_running, step_tokens, max_drafts
        self.turns = VirtualTokenCounter()
        self.waiting: list[SequenceState] = []
        self.running: list[SequenceState] = []  # in order of rank
        self.n_preemptions = 0
        self._n_arrived = 0
        self._n_started = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def check_fits(self, max_length: int) -> None:
        """Raises NeverFitsError where a sequence of so many tokens would not fit alone."""
        needed = self.pool.blocks_for(max_length)
        if needed > self.pool.n_blocks:
            raise NeverFitsError(
                f"{max_length} tokens of prompt and answer need {needed} blocks of cache, and there are "
                f"{self.pool.n_blocks}: shorten the prompt, lower max_tokens, or give the node more cache"
            )

    def add(self, sequence: SequenceState, now_ns: int) -> None:
        """Add a new sequence to the waiting ones. Raises NeverFitsError."""
        self.check_fits(sequence.max_length)
        sequence.arrival, self._n_arrived = self._n_arrived, self._n_arrived + 1
        sequence.arrived_ns = now_ns
        self.turns.entered(sequence.owner)
        self.waiting.append(sequence)

    def fork(self, sequence: SequenceState, now_ns: int) -> SequenceState:
        """Start another answer to a running sequence's prompt: it shares all blocks, or waits at `max_running`."""
        twin = sequence.twin()
        self.add(twin, now_ns)
        if len(self.running) < self.max_running:
            self.waiting.pop()
            for block in sequence.held:
                self.pool.share(block)
            twin.blocks, twin.n_gone = list(sequence.blocks), sequence.n_gone
            twin.n_computed = sequence.n_computed
            self._run(twin, -sequence.rank[0])
        return twin

    def end(self, sequence: SequenceState, *, is_sound: bool = True) -> None:
        """Remove a sequence, at any time. Unless it `is_sound` its blocks' content is not used again."""
        if sequence.phase is Phase.ENDED:
            return
        (self.running if sequence.phase is Phase.RUNNING else self.waiting).remove(sequence)
        if not is_sound:
            self.pool.forget(sequence.held)
            self.pool.forget_content(sequence.key(i, self.pool.block_tokens) for i in range(sequence.n_gone))
        self._release(sequence)
        sequence.phase = Phase.ENDED
        self.turns.left(sequence.owner)

    def computed(self, sequence: SequenceState, n_tokens: int) -> None:
        """Note that keys and values of its next `n_tokens` tokens, all known by now, are in its blocks."""
        block_tokens = self.pool.block_tokens
        end = sequence.n_computed + n_tokens
        assert end <= len(sequence.tokens), "only known tokens can have been computed"
        for index in range(sequence.n_computed // block_tokens, end // block_tokens):
            self.pool.register(sequence.blocks[index], sequence.key(index, block_tokens))
        sequence.n_computed = end
        if self.window is not None:
            self._give_back_unseen(sequence)
        if end > sequence.n_served:
            self.turns.charge(sequence.owner, end - max(sequence.n_served, sequence.n_cached))
            sequence.n_served = end

    def _give_back_unseen(self, sequence: SequenceState) -> None:
        """Release the blocks that every layer's window has passed for all later tokens."""
        first = first_seen_block(sequence.n_computed, self.window, self.pool.block_tokens)
        for index in range(sequence.n_gone, first):
            self.pool.release(sequence.blocks[index])
            sequence.blocks[index] = GONE
            sequence.n_gone += 1

    def _release(self, sequence: SequenceState) -> None:
        self.pool.release_all(sequence.held)
        sequence.blocks, sequence.n_gone = [], 0

    def overdue(self, now_ns: int, ns_per_token: float = 0.0) -> list[SequenceState]:
        """Sequences whose deadline has passed, or comes before their prompt could be read.

        `ns_per_token` is the fastest observed rate of reading prompts; tokens in the prefix cache take no time.
        """
        late: list[SequenceState] = []
        for sequence in (*self.waiting, *self.running):
            if sequence.deadline_ns is None:
                continue
            left_ns = sequence.deadline_ns - now_ns
            if left_ns > sequence.n_left * ns_per_token:
                continue
            if left_ns <= 0 or left_ns <= self._n_fresh(sequence) * ns_per_token:
                late.append(sequence)
        return late

    def _n_fresh(self, sequence: SequenceState) -> int:
        """Number of known tokens to compute before the next new one."""
        if sequence.phase is Phase.RUNNING:
            return sequence.n_left
        found = self.pool.find(sequence.keys_to_find(self.pool.block_tokens), self.window)
        return sequence.n_left - len(found) * self.pool.block_tokens

    def schedule(self, now_ns: int, draft: Draft | None = None) -> Plan:
        """Plan the next step. It is not empty if a sequence waits or runs."""
        plan = Plan()
        self._start_waiting(now_ns, plan)
        decodes = self._decodes(plan)
        budget = self.step_tokens - len(decodes)
        plan.works.extend(decodes)
        for sequence in self._prefills() if len(decodes) < len(self.running) else ():
            if budget == 0:
                break
            n_tokens = min(sequence.n_left, budget)
            plan.works.append(Work(sequence, n_tokens))
            budget -= n_tokens
        if draft is not None and self.max_drafts:
            self._add_drafts(decodes, budget, draft)
        return plan

    def _start_waiting(self, now_ns: int, plan: Plan) -> None:
        while self.waiting and len(self.running) < self.max_running:
            sequence, priority = self._next(now_ns)
            if not self._hold_known(sequence):
                return
            self.waiting.remove(sequence)
            self._run(sequence, priority)
            plan.started.append(sequence)

    def _next(self, now_ns: int) -> tuple[SequenceState, int]:
        """The next sequence to start, and its priority with ageing."""
        first: dict[int, SequenceState] = {}  # of each priority
        oldest_ns: dict[int, int] = {}
        for waiting in self.waiting:
            priority = waiting.priority
            oldest_ns[priority] = min(oldest_ns.get(priority, now_ns), waiting.arrived_ns)
            if priority not in first or self._turn(waiting) < self._turn(first[priority]):
                first[priority] = waiting
        grown, priority = max((each + (now_ns - oldest_ns[each]) // AGEING_NS, each) for each in first)
        return first[priority], grown

    def _turn(self, sequence: SequenceState) -> tuple[int, int]:
        return self.turns.served(sequence.owner), sequence.arrival

    def _hold_known(self, sequence: SequenceState) -> bool:
        """Hold blocks for all known tokens, cached ones first; leaves one free block for each running sequence."""
        pool = self.pool
        found = pool.find(sequence.keys_to_find(pool.block_tokens), self.window)
        n_fresh = pool.blocks_for(len(sequence.tokens)) - len(found)
        n_gone = found.count(GONE)
        if n_fresh + pool.n_idle_among(found[n_gone:]) + len(self.running) > pool.n_available:
            return False
        for block in found[n_gone:]:
            pool.share(block)
        sequence.blocks, sequence.n_gone = found, n_gone
        sequence.n_cached = sequence.n_computed = len(found) * pool.block_tokens
        self._append_blocks(sequence, n_fresh)
        return True

    def _append_blocks(self, sequence: SequenceState, n_blocks: int) -> None:
        for _ in range(n_blocks):
            after = sequence.blocks[-1] if sequence.n_held else None
            sequence.blocks.append(self.pool.allocate(after))

    def _run(self, sequence: SequenceState, priority: int) -> None:
        sequence.phase = Phase.RUNNING
        sequence.rank = (-priority, self._n_started)
        self._n_started += 1
        insort(self.running, sequence, key=lambda running: running.rank)

    def _decodes(self, plan: Plan) -> list[Work]:
        """Plan one token of each decoding sequence; higher ranks take blocks from lower ones."""
        return [
            Work(sequence, 1)
            for sequence in tuple(self.running)
            if sequence.n_left == 1 and sequence.phase is Phase.RUNNING and self._make_room(sequence, plan)
        ]

    def _make_room(self, sequence: SequenceState, plan: Plan) -> bool:
        """Get a block for the sequence's next token; false if the sequence was preempted instead."""
        pool = self.pool
        index = sequence.n_computed // pool.block_tokens
        while True:
            if index < len(sequence.blocks) and pool.holders(sequence.blocks[index]) == 1:
                return True
            if pool.n_available:
                break
            victim = self.running[-1]
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        if index == len(sequence.blocks):
            self._append_blocks(sequence, 1)
        else:  # copy on write
            source = sequence.blocks[index]
            sequence.blocks[index] = pool.allocate()
            pool.release(source)
            plan.copies.append((source, sequence.blocks[index]))
        return True

    def _preempt(self, sequence: SequenceState, plan: Plan) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.n_computed = 0
        sequence.n_preempted += 1
        sequence.phase = Phase.WAITING
        self.waiting.append(sequence)
        self.n_preemptions += 1
        plan.preempted.append(sequence)

    def _prefills(self) -> list[SequenceState]:
        prefills = [running for running in self.running if running.n_left > 1]
        return sorted(
            prefills, key=lambda running: (running.rank[0], self.turns.served(running.owner), running.rank)
        )

    def _add_drafts(self, decodes: list[Work], budget: int, draft: Draft) -> None:
        for work in decodes:
            sequence = work.sequence
            room = min(self.max_drafts, budget, sequence.max_length - len(sequence.tokens) - 1)
            if room < 1 or len(sequence.tokens) == sequence.n_prompt:  # the first token may still be forked
                continue
            drafts = list(draft(sequence, room))[:room]
            needed = self.pool.blocks_for(len(sequence.tokens) + len(drafts)) - len(sequence.blocks)
            self._append_blocks(sequence, min(max(needed, 0), self.pool.n_available))
            held = len(sequence.blocks) * self.pool.block_tokens
            work.drafts = drafts[: held - len(sequence.tokens)]
            budget -= len(work.drafts)
