"""A world without tensors for the scheduler: its "model" and "cache memory" are plain Python, and check what they see.

What a cache slot holds is the hash of the salt and of all tokens up to its own, as real keys and values depend on
them; so a block that is shared, copied, evicted or used again wrongly is seen at the next step that reads it. With a
`window` a step reads no more of the past than that, and no more may be held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model.serving.engine.blocks import GONE, BlockPool
from model.serving.engine.scheduler import Plan, Scheduler, Work
from model.serving.engine.sequence import Phase, SequenceState

VOCABULARY = 3  # so few that prompts often begin alike
STEP_NS = 1_000_000


def next_token(tokens: Sequence[int], answer: int = 0) -> int:
    return hash((tuple(tokens), answer)) % VOCABULARY  # hashes of numbers are the same in each process


def plain_answer(prompt: Sequence[int], n_tokens: int, answer: int = 0) -> list[int]:
    tokens = list(prompt)
    for _ in range(n_tokens):
        tokens.append(next_token(tokens, answer))
    return tokens[len(prompt) :]


@dataclass
class World:
    """Runs a scheduler step by step, one "answer" per sequence, ending each at its `max_length`."""

    n_blocks: int
    block_tokens: int
    max_running: int
    step_tokens: int
    max_drafts: int = 0
    window: int | None = None
    now_ns: int = 0
    n_computed: int = 0
    n_answers: dict[int, int] = field(default_factory=dict)  # id of a sequence -> answers of its prompt
    answer_of: dict[int, int] = field(default_factory=dict)
    finished: list[SequenceState] = field(default_factory=list)
    slots: dict[tuple[int, int], int] = field(default_factory=dict)  # (block, offset) -> content

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.n_blocks, self.block_tokens)
        self.scheduler = Scheduler(
            self.pool,
            max_running=self.max_running,
            step_tokens=self.step_tokens,
            max_drafts=self.max_drafts,
            window=self.window,
        )

    def submit(
        self, prompt: Sequence[int], n_tokens: int, n_answers: int = 1, **fields: object
    ) -> SequenceState:
        sequence = SequenceState(list(prompt), len(prompt), len(prompt) + n_tokens, **fields)  # type: ignore[arg-type]
        self.scheduler.add(sequence, self.now_ns)
        self.n_answers[id(sequence)] = n_answers
        self.answer_of[id(sequence)] = 0
        return sequence

    def draft(self, sequence: SequenceState, n_tokens: int) -> list[int]:
        """Right guesses, but for every third sequence length."""
        answer = self.answer_of[id(sequence)]
        tokens = list(sequence.tokens)
        for _ in range(n_tokens):
            guess = next_token(tokens, answer)
            tokens.append(guess if len(tokens) % 3 else (guess + 1) % VOCABULARY)
        return tokens[len(sequence.tokens) :]

    def step(self) -> Plan:
        self.now_ns += STEP_NS
        had_work = self.scheduler.has_work
        plan = self.scheduler.schedule(self.now_ns, self.draft if self.max_drafts else None)
        assert bool(plan.works) == had_work, "where there is work a step does some of it"
        self._check_plan(plan)
        for source, target in plan.copies:
            for offset in range(self.block_tokens):
                self.slots[target, offset] = self.slots.get((source, offset), -1)
        written: set[tuple[int, int]] = set()
        for work in plan.works:
            written |= self._write(work, written)
        for work in plan.works:
            self._check_past(work)
        for work in plan.works:
            self._take(work)
        self.check_blocks()
        return plan

    def _check_plan(self, plan: Plan) -> None:
        assert sum(len(work.tokens) for work in plan.works) <= self.step_tokens
        assert len(self.scheduler.running) <= self.max_running
        assert len({id(work.sequence) for work in plan.works}) == len(plan.works)
        assert all(work.sequence.phase is Phase.RUNNING and work.n_tokens > 0 for work in plan.works)

    def _slot(self, sequence: SequenceState, position: int) -> tuple[int, int]:
        return sequence.blocks[position // self.block_tokens], position % self.block_tokens

    def _content(self, sequence: SequenceState, tokens: Sequence[int]) -> int:
        return hash((len(sequence.salt), tuple(tokens)))

    def _write(self, work: Work, written: set[tuple[int, int]]) -> set[tuple[int, int]]:
        sequence, past = work.sequence, work.sequence.n_computed
        tokens = [*sequence.tokens[:past], *work.tokens]
        new = {self._slot(sequence, position) for position in range(past, len(tokens))}
        assert not new & written, "two sequences write into one slot"
        for position in range(past, len(tokens)):
            block, offset = self._slot(sequence, position)
            assert self.pool.holders(block) == 1, "a shared block is written"
            self.slots[block, offset] = self._content(sequence, tokens[: position + 1])
        self.n_computed += len(work.tokens)
        return new

    def _check_past(self, work: Work) -> None:
        sequence = work.sequence
        first = 0 if self.window is None else max(sequence.n_computed - self.window + 1, 0)
        for position in range(first, sequence.n_computed):
            expected = self._content(sequence, sequence.tokens[: position + 1])
            assert self.slots[self._slot(sequence, position)] == expected, (
                f"position {position} holds another past"
            )

    def _take(self, work: Work) -> None:
        sequence, n_logits = work.sequence, work.n_logits
        if not n_logits:
            self.scheduler.computed(sequence, work.n_tokens)
            return
        if n_logits > 1:
            self._take_drafts(work)
            return
        self.scheduler.computed(sequence, work.n_tokens)
        for answer in range(1, self.n_answers.pop(id(sequence), 1)):
            twin = self.scheduler.fork(sequence, self.now_ns)
            self.answer_of[id(twin)] = answer
            self._append(twin)
        self._append(sequence)

    def _take_drafts(self, work: Work) -> None:
        sequence = work.sequence
        n_taken = 0
        for draft in [*work.drafts, None]:
            sequence.tokens.append(next_token(sequence.tokens, self.answer_of[id(sequence)]))
            n_taken += 1
            if sequence.tokens[-1] != draft:
                break
        self.scheduler.computed(sequence, n_taken)
        self._end_where_done(sequence)

    def _append(self, sequence: SequenceState) -> None:
        sequence.tokens.append(next_token(sequence.tokens, self.answer_of[id(sequence)]))
        self._end_where_done(sequence)

    def _end_where_done(self, sequence: SequenceState) -> None:
        assert len(sequence.tokens) <= sequence.max_length
        if len(sequence.tokens) == sequence.max_length:
            self.finished.append(sequence)
            self.scheduler.end(sequence)

    def check_blocks(self) -> None:
        """Each block is held by exactly the sequences whose table names it."""
        counts: dict[int, int] = {}
        for sequence in self.scheduler.running:
            self._check_table(sequence)
            for block in sequence.held:
                counts[block] = counts.get(block, 0) + 1
        assert all(not sequence.blocks for sequence in self.scheduler.waiting)
        assert {block: n for block in range(self.n_blocks) if (n := self.pool.holders(block))} == counts
        assert self.pool.n_held == len(counts)

    def _check_table(self, sequence: SequenceState) -> None:
        """Gone are just the blocks that no token to come looks at."""
        assert len(set(sequence.held)) == len(sequence.held) and GONE not in sequence.held
        unseen = 0 if self.window is None else max(sequence.n_computed - self.window + 1, 0)
        assert sequence.blocks[: sequence.n_gone] == [GONE] * (unseen // self.block_tokens)

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"not done after {max_steps} steps")
