"""Interface of draft proposers for speculative decoding, and the number of draft tokens worth verifying.

The engine computes the guesses (drafts) behind the known tokens in one step; `Sampler.verify` then draws what plain
decoding would have drawn and keeps the drafts that were right (Leviathan et al. 2023, arXiv:2211.17192). Bad guesses
cost time, never the answer. How many are worth their time is decided here, from how the last ones fared. Proposers
follow one answer each. Choice.py says which guesses there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from model.sampling import Constraint

# What a draft adds to a step that decodes one token, as a share of that step; `python -m benchmarks.figures.sampling` measures it.
# Models whose tokens each fetch experts of their own take so much, dense ones less.
COST_PER_DRAFT = 0.3


def cost_among(n_running: int, cost: float = COST_PER_DRAFT) -> float:
    """What a draft costs where `n_running` answers share a step, as a share of what the step costs each of them.

    A step is taken to cost a fixed part, shared by all, and the same for each token: so a draft costs ever more of an
    answer's share, and nearly all of it in large batches.
    """
    n_running = max(n_running, 1)
    return n_running / (n_running + 1 / cost - 1)


class Proposer(Protocol):
    """Follows one answer."""

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        """At most `n` guesses of what follows the prompt and answer so far; none where it has no idea.

        Each call sees the tokens of the call before, unchanged, and those that have come since.
        """


class DraftLength:
    """How many drafts are worth verifying; pure.

    With a share `a` of single drafts accepted, k drafts give (1 - a^(k+1)) / (1 - a) tokens for the time of
    1 + k x cost steps: the best k is taken. Where that is none, nothing is drafted for a while, twice as long each
    time that a trial fails, up to `LONGEST_REST` steps.
    """

    MEMORY = 0.9  # weight that each verification leaves to all before it: about the last ten count
    FIRST_SHARE, FIRST_WEIGHT = 0.7, 2.0  # what is believed before anything was verified, in drafts
    SHORTEST_REST, LONGEST_REST = 4, 64

    def __init__(self) -> None:
        self._accepted = self.FIRST_SHARE * self.FIRST_WEIGHT
        self._judged = self.FIRST_WEIGHT
        self._rest = self.SHORTEST_REST
        self._resting = 0
        self._cost = COST_PER_DRAFT

    @property
    def share(self) -> float:
        """The share of drafts accepted, of those whose predecessors were accepted; recent ones count more."""
        return self._accepted / self._judged

    def next_length(self, most: int, cost: float = COST_PER_DRAFT) -> int:
        """How many drafts the next step should verify, at most `most`, where each costs so much. Asked once per step."""
        if not cost > 0:  # nor nan
            raise ValueError("a draft's cost must be above 0, as a share of a step")
        if most < 1:
            return 0
        self._cost = cost
        if self._resting > 0:
            self._resting -= 1
            return 0
        # One draft, until it is verified, shows whether guessing pays again.
        return max(1, self._best_length(most))

    def verified(self, accepted: int, judged: int) -> None:
        """`judged` drafts were compared with what was drawn, of which the first `accepted` were right."""
        if judged < 1:
            return
        self._accepted = self.MEMORY * self._accepted + accepted
        self._judged = self.MEMORY * self._judged + judged
        if self._best_length(1) > 0:
            self._rest, self._resting = self.SHORTEST_REST, 0
        else:
            self._resting = self._rest
            self._rest = min(2 * self._rest, self.LONGEST_REST)

    def _best_length(self, most: int) -> int:
        best, best_rate = 0, 1.0
        tokens = 1.0
        reached = 1.0
        for length in range(1, most + 1):
            reached *= self.share  # that all drafts before it and this one are accepted
            tokens += reached
            rate = tokens / (1 + self._cost * length)
            if rate > best_rate:
                best, best_rate = length, rate
        return best


class AdaptiveProposer:
    """Asks another proposer for as many drafts as its last ones justify.

    How those fared shows in the tokens that have come since: no one has to tell.
    """

    def __init__(self, proposer: Proposer, n_running: Callable[[], int] = lambda: 1) -> None:
        """`n_running`: how many answers share the next step."""
        self._proposer, self._n_running = proposer, n_running
        self.length = DraftLength()
        self._drafts: list[int] = []
        self._drafted_at = 0  # length of the tokens behind which they stood

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        self._learn(tokens)
        n_wanted = self.length.next_length(n, cost_among(self._n_running()))
        self._drafts = self._proposer.propose(tokens, n_wanted) if n_wanted else []
        self._drafted_at = len(tokens)
        return list(self._drafts)

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compares the last drafts with what came. Drafts behind the last new token were not verified."""
        came = tokens[self._drafted_at : self._drafted_at + len(self._drafts)]
        accepted = matching(came, self._drafts)
        self.length.verified(accepted, min(accepted + 1, len(came)))


class ConstrainedProposer:
    """Drafts what a constraint leaves no choice about; else another proposer's drafts, as far as it allows them."""

    def __init__(self, proposer: Proposer, constraint: Constraint) -> None:
        self._proposer, self._constraint = proposer, constraint

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        if forced := self._constraint.forced_tokens()[:n]:
            return forced
        drafts = self._proposer.propose(tokens, n)
        return drafts[: self._constraint.allowed_prefix(drafts)]


def matching(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))
