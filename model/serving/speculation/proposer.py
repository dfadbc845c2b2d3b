"""Interface of draft proposers for speculative decoding, and the number of draft tokens worth verifying.

The engine computes the draft tokens after the known tokens in one step; `Sampler.verify` then draws what plain decoding
would have drawn and accepts the draft tokens that are equal (Leviathan et al. 2023, arXiv:2211.17192). Rejected draft
tokens cost time and do not change the answer. How many are worth their time follows from the recent share of accepted
ones. Each proposer is for one answer; `choice.py` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from model.sampling import Constraint

# Cost of a draft token in a step that decodes one token, as a share of that step; `python -m benchmarks.figures.sampling` measures it.
# MoE models, where each token reads other experts, cost this much; dense ones less.
COST_PER_DRAFT = 0.3


def cost_among(n_running: int, cost: float = COST_PER_DRAFT) -> float:
    """Cost of a draft token if `n_running` answers share a step, as a share of the step's cost for each of them.

    A step is modelled as a fixed cost, shared by all, and the same cost for each token. So the share of a draft token
    rises with the batch, to nearly all of an answer's share in large ones.
    """
    n_running = max(n_running, 1)
    return n_running / (n_running + 1 / cost - 1)


class Proposer(Protocol):
    """Interface of a draft proposer, which is for one answer."""

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        """Propose at most `n` draft tokens after the prompt and answer so far; possibly none.

        Each call gets the tokens of the previous call, unchanged, and the new ones.
        """


class DraftLength:
    """The number of draft tokens that is worth verifying; pure.

    With a share `a` of single draft tokens accepted, k of them give (1 - a^(k+1)) / (1 - a) tokens for the time of
    1 + k x cost steps: the best k is taken. If that is 0, nothing is drafted for some steps, twice as many each time
    that a trial fails, up to `LONGEST_REST`.
    """

    MEMORY = 0.9  # weight that each verification leaves to all before it: about the last ten count
    FIRST_SHARE, FIRST_WEIGHT = 0.7, 2.0  # prior before anything was verified, in draft tokens
    SHORTEST_REST, LONGEST_REST = 4, 64

    def __init__(self) -> None:
        self._accepted = self.FIRST_SHARE * self.FIRST_WEIGHT
        self._judged = self.FIRST_WEIGHT
        self._rest = self.SHORTEST_REST
        self._resting = 0
        self._cost = COST_PER_DRAFT

    @property
    def share(self) -> float:
        """The share of accepted draft tokens among those whose predecessors were accepted; recent ones count more."""
        return self._accepted / self._judged

    def next_length(self, most: int, cost: float = COST_PER_DRAFT) -> int:
        """Number of draft tokens for the next step, at most `most`, at this cost of each. Called once per step."""
        if not cost > 0:  # nor nan
            raise ValueError("a draft token's cost must be above 0, as a share of a step")
        if most < 1:
            return 0
        self._cost = cost
        if self._resting > 0:
            self._resting -= 1
            return 0
        # One draft token, until it is verified, tests whether drafting is worth its cost again.
        return max(1, self._best_length(most))

    def verified(self, accepted: int, judged: int) -> None:
        """Record that `judged` draft tokens were compared with the drawn ones and the first `accepted` were equal."""
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
            reached *= self.share  # probability that this one and all before it are accepted
            tokens += reached
            rate = tokens / (1 + self._cost * length)
            if rate > best_rate:
                best, best_rate = length, rate
        return best


class AdaptiveProposer:
    """Asks another proposer for as many draft tokens as its recent ones justify.

    It finds out how many were accepted by comparing them with the tokens that followed.
    """

    def __init__(self, proposer: Proposer, n_running: Callable[[], int] = lambda: 1) -> None:
        """`n_running`: how many answers share the next step."""
        self._proposer, self._n_running = proposer, n_running
        self.length = DraftLength()
        self._drafts: list[int] = []
        self._drafted_at = 0  # number of tokens before the draft tokens

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        self._learn(tokens)
        n_wanted = self.length.next_length(n, cost_among(self._n_running()))
        self._drafts = self._proposer.propose(tokens, n_wanted) if n_wanted else []
        self._drafted_at = len(tokens)
        return list(self._drafts)

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compare the last draft tokens with the new tokens. Those after the last new token were not verified."""
        came = tokens[self._drafted_at : self._drafted_at + len(self._drafts)]
        accepted = matching(came, self._drafts)
        self.length.verified(accepted, min(accepted + 1, len(came)))


class ConstrainedProposer:
    """Drafts the tokens that a constraint forces; else another proposer's, as far as the constraint allows them."""

    def __init__(self, proposer: Proposer, constraint: Constraint) -> None:
        self._proposer, self._constraint = proposer, constraint

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        if forced := self._constraint.forced_tokens()[:n]:
            return forced
        drafts = self._proposer.propose(tokens, n)
        return drafts[: self._constraint.allowed_prefix(drafts)]


def matching(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))
