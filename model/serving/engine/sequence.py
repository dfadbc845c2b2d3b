"""One sequence of the scheduler: its tokens, how many are computed, and the blocks it holds.

Plain state without rules about other sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from model.serving.engine.blocks import next_key, root_key


class Phase(StrEnum):
    WAITING = "waiting"  # holds no blocks; not started yet, or preempted
    RUNNING = "running"  # holds blocks and takes part in steps
    ENDED = "ended"  # holds nothing; the scheduler has removed it


@dataclass(eq=False)
class SequenceState:
    """Token ids so far (prompt, then answer); keys and values of the first `n_computed` of them are in `blocks`.

    The first `n_gone` entries of that table are `GONE`: their blocks were released, since no layer needs them again.

    A preempted sequence starts again at zero, its answer's tokens computed like a prompt's. `max_length` bounds
    prompt and answer together. A higher `priority` goes first; sequences of one `owner` share that owner's turn.
    """

    tokens: list[int]
    n_prompt: int
    max_length: int
    salt: str = ""
    owner: str = ""
    priority: int = 0
    deadline_ns: int | None = None
    phase: Phase = Phase.WAITING
    arrival: int = 0  # the number of sequences that arrived before it
    rank: tuple[int, int] = (0, 0)  # among the running: lower ones are served first and preempted last
    arrived_ns: int = 0
    n_computed: int = 0
    n_served: int = 0  # the most tokens that were ever computed: its owner is charged for these once
    n_cached: int = 0  # tokens found in the prefix cache when it last started
    n_preempted: int = 0
    blocks: list[int] = field(default_factory=list)
    n_gone: int = 0
    _keys: list[bytes] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Number of known tokens not computed yet; one for a sequence that decodes."""
        return len(self.tokens) - self.n_computed

    @property
    def held(self) -> list[int]:
        """The blocks that it holds."""
        return self.blocks[self.n_gone :]

    @property
    def n_held(self) -> int:
        return len(self.blocks) - self.n_gone

    def key(self, index: int, block_tokens: int) -> bytes:
        """The key of its `index`-th block, all of whose tokens must be known."""
        assert (index + 1) * block_tokens <= len(self.tokens), "a block's key needs all of its tokens"
        while len(self._keys) <= index:
            start = len(self._keys) * block_tokens
            before = self._keys[-1] if self._keys else root_key(self.salt)
            self._keys.append(next_key(before, self.tokens[start : start + block_tokens]))
        return self._keys[index]

    def keys_to_find(self, block_tokens: int) -> Sequence[bytes]:
        """Keys of the full blocks that may be cached; the last token is always computed, for its logits."""
        n_blocks = (len(self.tokens) - 1) // block_tokens
        if n_blocks:
            self.key(n_blocks - 1, block_tokens)
        return self._keys[:n_blocks]

    def twin(self) -> SequenceState:
        """Another answer to the same prompt, which waits and holds no block yet."""
        return SequenceState(
            tokens=list(self.tokens),
            n_prompt=self.n_prompt,
            max_length=self.max_length,
            salt=self.salt,
            owner=self.owner,
            priority=self.priority,
            deadline_ns=self.deadline_ns,
            n_served=self.n_served,
            _keys=list(self._keys),
        )
