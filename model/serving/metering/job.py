"""State of one generation in the engine, and of each of its answers. The engine moves it."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.sampling import Sampler
from model.serving.api.text import TextStream
from model.serving.engine.min_tokens import MinTokens
from model.serving.engine.sequence import Phase, SequenceState
from model.serving.metering.generation import Finish, Generation, Listener
from model.serving.metering.usage import RequestMeter
from model.serving.node.served import ServedModel
from model.serving.speculation.proposer import Proposer

NS_PER_MS = 1_000_000


@dataclass(eq=False)
class Answer:
    """One of the n answers. Its sequence is None until the prompt, which they share, is read."""

    job: Job
    index: int
    sampler: Sampler
    text: TextStream
    sequence: SequenceState | None = None
    proposer: Proposer | None = None  # made with the first drafts
    may_draft: bool = True
    tokens: list[int] = field(
        default_factory=list
    )  # chosen so far; the sequence's list belongs to the engine
    finish: Finish | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)


class Job:
    """A generation with its listener, its counters and its answers."""

    def __init__(self, served: ServedModel, generation: Generation, listener: Listener, now_ns: int) -> None:
        self.generation, self.listener = generation, listener
        self.meter = RequestMeter(len(generation.prompt), now_ns)
        constraint = generation.constraint or _min_tokens(served, generation)
        sampler = Sampler(generation.settings, prompt=generation.prompt, constraint=constraint)
        # The first answer is drawn as if it were the only one.
        samplers = [sampler] if generation.n == 1 else [sampler.fork(i) for i in range(generation.n)]
        self.answers = [
            Answer(self, i, each, TextStream(served.tokenizer.token_bytes, generation.stop))
            for i, each in enumerate(samplers)
        ]
        self.answers[0].sequence = self._sequence(now_ns)
        self.is_started = False
        self.holding: tuple[int, int] | None = (
            None  # the pool's changes of blocks and of sharing at the last count of its cache
        )

    def _sequence(self, now_ns: int) -> SequenceState:
        generation = self.generation
        deadline_ms = generation.deadline_ms
        return SequenceState(
            tokens=list(generation.prompt),
            n_prompt=len(generation.prompt),
            max_length=len(generation.prompt) + generation.max_tokens,
            salt=generation.salt,
            owner=generation.owner,
            priority=generation.priority,
            deadline_ns=None if deadline_ms is None else now_ns + deadline_ms * NS_PER_MS,
        )

    @property
    def sequence(self) -> SequenceState:
        """The first answer's sequence, which reads the prompt."""
        sequence = self.answers[0].sequence
        assert sequence is not None
        return sequence

    def forget_answers(self) -> None:
        """Drop the answers after all ended: a client that still holds the job must not keep proposers, and so the model."""
        self.answers.clear()

    @property
    def open_answers(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.finish is None]

    @property
    def running(self) -> list[SequenceState]:
        return [
            answer.sequence
            for answer in self.answers
            if answer.sequence is not None and answer.sequence.phase is Phase.RUNNING
        ]

    @property
    def unforked(self) -> list[Answer]:
        """Answers that start after the first one has read the prompt."""
        if len(self.answers) == 1:
            return []
        return [answer for answer in self.answers if answer.sequence is None and answer.finish is None]


def _min_tokens(served: ServedModel, generation: Generation) -> MinTokens | None:
    ends = generation.stop_token_ids
    if not generation.ignore_stop_tokens:
        ends |= served.tokenizer.stop_tokens
    vocab_size = served.transformer.config.vocab_size
    ends = frozenset(token for token in ends if token < vocab_size)
    return MinTokens(generation.min_tokens, ends, vocab_size) if generation.min_tokens and ends else None
