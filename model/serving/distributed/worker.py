"""A serving rank other than 0: computes its part of each step that rank 0 announces.

`python -m model.serving.distributed.worker RANK JOB` is started by `executor.py`, never by hand. It ends with its
parent, whose pipe it has as standard input. Exit status: 0 when told to stop or when the parent is gone, 1 when it
lost rank 0, or its own step failed; the traceback on standard error then says why.
"""

from __future__ import annotations

import logging
import sys

from model.parallel.mesh.processes import naming_lost_ranks
from model.parallel.mesh.workers import attach
from model.serving.distributed.messages import Command, decode_parts
from model.serving.distributed.rank import Rank, RankJob, build, join, leave
from model.serving.executors.base import Executor

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    rank, job = int(arguments[0]), RankJob.from_json(arguments[1])
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {rank} %(name)s %(levelname)s %(message)s"
    )
    attach()
    try:
        joined = join(job, rank)
        executor = build(joined, job.load())
        serve(joined, executor)
    except Exception:
        log.exception("this rank ends")
        return 1
    leave()
    return 0


def serve(rank: Rank, executor: Executor) -> None:
    """Report readiness, then compute until told to stop. Raises what a step raises: a rank cannot undo a step."""
    with naming_lost_ranks():
        rank.channel.meet()
        while True:
            command, integers = rank.channel.receive()
            if command is Command.STOP:
                return
            if command is Command.STEP:
                executor.step(decode_parts(integers))
            else:
                executor.copy_block(*integers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
