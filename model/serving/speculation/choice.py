"""Choose the draft proposer: the model's own MTP modules where they can be computed, else prompt lookup."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.sampling import Sampler
from model.serving.executors.base import Executor
from model.serving.speculation.mtp import AheadExecutor, AheadProposer
from model.serving.speculation.prompt_lookup import LookupProposer
from model.serving.speculation.proposer import AdaptiveProposer, ConstrainedProposer, Proposer

CountRunning = Callable[[], int]
MakeProposer = Callable[[Sampler, Callable[[], Sequence[int]], CountRunning], Proposer]


def proposers(executor: Executor | None = None) -> MakeProposer:
    """Makes a proposer for each answer, from its sampler and a function that returns its block table of the moment.

    A third function tells how many answers share the next step; the more they are, the less is drafted.
    """

    def make(
        sampler: Sampler, blocks: Callable[[], Sequence[int]], n_running: CountRunning = lambda: 1
    ) -> Proposer:
        proposer: Proposer = (
            AheadProposer(executor, blocks, sampler.guess)
            if isinstance(executor, AheadExecutor)
            else LookupProposer()
        )
        if sampler.constraint is not None:
            proposer = ConstrainedProposer(proposer, sampler.constraint)
        return AdaptiveProposer(proposer, n_running)

    return make
