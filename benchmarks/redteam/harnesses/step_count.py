"""Scores serving by the number of steps until long prompts are read: a step counts one, whatever is in it.

With a tree and a mode as its arguments it is the counting process.
"""

from __future__ import annotations

import sys

from scoring import print_result, score_program  # type: ignore[import-not-found]

PROMPT, PROMPTS, STEP_TOKENS = 1024, 4, 256


def measure(tree: str, mode: str) -> None:
    sys.path.insert(0, tree)
    from model.serving.engine.blocks import BlockPool
    from model.serving.engine.scheduler import Scheduler
    from model.serving.engine.sequence import SequenceState

    scheduler = Scheduler(BlockPool(1024, 16), max_running=8, step_tokens=STEP_TOKENS)
    for first in range(PROMPTS):
        ids = list(range(first, first + PROMPT))
        scheduler.add(SequenceState(ids, n_prompt=PROMPT, max_length=PROMPT + 1), 0)
    n_steps, n_read = 0, 0
    while n_read < PROMPTS:
        plan = scheduler.schedule(n_steps)
        n_steps += 1
        for work in plan.works:
            n_read += work.n_logits
            scheduler.computed(work.sequence, work.n_tokens)
    print_result(float(n_steps), correct=True)


if __name__ == "__main__":
    score_program(__file__, measure)
