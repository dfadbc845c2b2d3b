"""Start of every rank of a serving job: join the others, build its part of the model and of the cache.

Ranks are on one machine: they meet through a file, talk over the loopback interface (gloo), and over NCCL where each
has its own CUDA device. Messages of `messages.py` always travel on the host.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from model import native
from model.parallel.mesh.processes import RankMissingError, all_ranks_on_host, meet
from model.serving.distributed.messages import Channel
from model.serving.distributed.shard import Degrees, Groups, shard_of
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.node.served import ServedModel, load_served

STEP_TIMEOUT_S = 120.0  # of one collective: a rank that does not answer for longer is lost
_FOREVER = timedelta(days=365)  # receivers wait for work as long as there is none


@dataclass(frozen=True)
class RankJob:
    """Description of a serving job; rank 0 writes it, the others read it."""

    model: str
    home: str | None
    tensor: int
    expert: int
    n_blocks: int
    block_tokens: int
    meeting_file: str  # in a folder that only this user may enter
    threads: int | None = None
    step_timeout_s: float = STEP_TIMEOUT_S

    @property
    def degrees(self) -> Degrees:
        return Degrees(self.tensor, self.expert)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RankJob:
        return cls(**json.loads(text))

    def load(self) -> ServedModel:
        """The whole model; its weights are memory-mapped where the stored dtype is served."""
        return load_served(self.model, None if self.home is None else Path(self.home))


@dataclass(frozen=True)
class Rank:
    """A joined rank."""

    job: RankJob
    rank: int
    device: torch.device
    groups: Groups
    channel: Channel


def join(job: RankJob, rank: int) -> Rank:
    """Join the default process group and make the groups of the job. Raises RankMissingError where a rank is missing."""
    if job.threads:
        torch.set_num_threads(job.threads)
    n_ranks, timeout = job.degrees.n_ranks, timedelta(seconds=job.step_timeout_s)
    device = meet(job.meeting_file, rank, n_ranks, timeout_s=job.step_timeout_s)
    try:
        channel = Channel(all_ranks_on_host(_FOREVER))
        groups = Groups(dist.group.WORLD if n_ranks > 1 else None, _tensor_group(job.degrees, rank, timeout))
        channel.meet()
    except (dist.DistError, RuntimeError) as error:
        raise RankMissingError(f"rank {rank} of {n_ranks} could not join the others: {error}") from error
    return Rank(job, rank, device, groups, channel)


def build(rank: Rank, served: ServedModel) -> TorchExecutor:
    """This rank's part of the model over its part of the cache, ready to compute. Raises MeshError.

    Kernels that layers would build at first use are built here, where no other rank waits in a step.
    """
    if rank.device.type == "cpu":
        native.available()
    job, whole = rank.job, served.transformer
    shard = shard_of(
        whole.config,
        whole.state_dict(),
        job.degrees,
        rank.rank,
        rank.groups,
        device=rank.device,
        dtype=whole.dtype,
    )
    return TorchExecutor(shard, job.n_blocks, block_tokens=job.block_tokens)


def leave() -> None:
    """Leaves the job; afterwards this process may join another."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _tensor_group(degrees: Degrees, rank: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """Make all tensor parallel groups, which every rank must take part in; returns this rank's."""
    if degrees.tensor == 1:
        return None
    own: dist.ProcessGroup | None = None
    for first in range(0, degrees.n_ranks, degrees.tensor):
        members = list(range(first, first + degrees.tensor))
        group = dist.new_group(members, timeout=timeout)
        if rank in members:
            assert isinstance(group, dist.ProcessGroup)  # not torch's marker for ranks outside of the group
            own = group
    return own
