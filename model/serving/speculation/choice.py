"""Choose the draft proposer: the model's own MTP modules where they can be computed, else prompt lookup."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.sampling import Sampler
from model.serving.executors.base import Executor
from model.serving.speculation.mtp import AheadExecutor, MTPProposer
from model.serving.speculation.prompt_lookup import LookupProposer
from model.serving.speculation.proposer import AdaptiveProposer, ConstrainedProposer, Proposer

CountRunning = Callable[[], int]
MakeProposer = Callable[[Sampler, Callable[[], Sequence[int]], CountRunning], Proposer]


def proposers(executor: Executor | None = None) -> MakeProposer:
    """Make a function that makes each answer's proposer from its sampler and a function that returns its block table.

    A third function returns how many answers share the next step; with more of them fewer tokens are drafted.
    """

    def make(
        sampler: Sampler, blocks: Callable[[], Sequence[int]], n_running: CountRunning = lambda: 1
    ) -> Proposer:
        proposer: Proposer = (
            MTPProposer(executor, blocks, sampler.draft_token)
            if isinstance(executor, AheadExecutor)
            else LookupProposer()
        )
        if sampler.constraint is not None:
            proposer = ConstrainedProposer(proposer, sampler.constraint)
        return AdaptiveProposer(proposer, n_running)

    return make
