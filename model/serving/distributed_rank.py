"""What every rank of a serving job does alike: it joins the others and builds its part of the model and of the cache.

Ranks lie on one machine: they meet through a file, talk over the loopback interface (gloo), and over NCCL where each
has a CUDA device of its own. Messages of `distributed_messages.py` always travel on the host. Knows nothing of who
starts ranks, nor of what they are told to do.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from model import native
from model.parallel.processes import RankMissingError
from model.serving.distributed_messages import Channel
from model.serving.distributed_shard import Degrees, Groups, shard_of
from model.serving.executor import Executor
from model.serving.served import ServedModel, load_served
from model.serving.torch_executor import TorchExecutor

JOIN_TIMEOUT_S = 300.0  # a busy machine may take minutes to import torch and to load
STEP_TIMEOUT_S = 120.0  # of one collective: a rank that is silent for longer is lost
_FOREVER = timedelta(days=365)  # receivers wait for work as long as there is none


@dataclass(frozen=True)
class RankJob:
    """Everything that a rank must know; rank 0 writes it, the others read it."""

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
    """Joins the default process group and makes the groups of the job. Raises RankMissingError where they do not come."""
    if job.threads:
        torch.set_num_threads(job.threads)
    device, backend = _device(job.degrees.n_ranks, rank)
    _talk_over_loopback()
    n_ranks, timeout = job.degrees.n_ranks, timedelta(seconds=job.step_timeout_s)
    store = dist.FileStore(job.meeting_file, n_ranks)  # type: ignore[attr-defined]  # public, but in no __all__
    store.set_timeout(timedelta(seconds=JOIN_TIMEOUT_S))
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=n_ranks, timeout=timeout)
        channel = Channel(dist.new_group(backend="gloo", timeout=_FOREVER))
        groups = Groups(dist.group.WORLD if n_ranks > 1 else None, _tensor_group(job.degrees, rank, timeout))
        dist.barrier()  # gloo may connect at the first collective only
        channel.meet()
    except (dist.DistError, RuntimeError) as error:
        raise RankMissingError(f"rank {rank} of {n_ranks} could not join the others: {error}") from error
    return Rank(job, rank, device, groups, channel)


def build(rank: Rank, served: ServedModel) -> Executor:
    """This rank's part of the model over its part of the cache, ready to compute. Raises MeshError.

    Kernels that layers would build when they are first used are built here: others would wait within a step.
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


def _device(n_ranks: int, rank: int) -> tuple[torch.device, str]:
    """CUDA where every rank can have a device of its own."""
    if torch.cuda.is_available() and torch.cuda.device_count() >= n_ranks:
        torch.cuda.set_device(rank)
        return torch.device("cuda", rank), "nccl"
    return torch.device("cpu"), "gloo"


def _tensor_group(degrees: Degrees, rank: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """Every rank takes part in making every group."""
    if degrees.tensor == 1:
        return None
    own: dist.ProcessGroup | None = None
    for first in range(0, degrees.n_ranks, degrees.tensor):
        members = list(range(first, first + degrees.tensor))
        group = dist.new_group(members, timeout=timeout)
        if rank in members:
            own = group
    return own


def _talk_over_loopback() -> None:
    """Else gloo takes the address of the host's name, which other machines may reach."""
    names = {name for _, name in socket.if_nameindex()}
    for name in ("lo", "lo0"):
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            return
