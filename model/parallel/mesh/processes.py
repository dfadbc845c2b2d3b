"""Join the processes of a mesh: one process group per axis, and clear errors where a rank is missing or lost.

Every wait is limited: joining and each collective raise after `timeout_s` instead of hanging.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

import torch
import torch.distributed as dist

from model.parallel.mesh.mesh import Axis, Coordinates, Mesh, MeshError

JOIN_TIMEOUT_S = 120.0
STEP_TIMEOUT_S = 600.0
MEETING_TIMEOUT_S = 300.0  # a busy machine may take minutes to import torch and to load


class RankMissingError(RuntimeError):
    """A rank that did not join or was lost; the message says what to do."""


@dataclass(frozen=True)
class Processes:
    """The running mesh as seen by one rank: its coordinates and its group on each axis.

    A group is None where the axis has degree one, so that nothing is communicated on it. `ends` joins the first and
    the last pipeline stage, which share a tied embedding; None on all other ranks. A collective raises after `timeout_s`.
    """

    mesh: Mesh
    rank: int
    at: Coordinates
    groups: dict[Axis, dist.ProcessGroup | None]
    ends: dist.ProcessGroup | None
    timeout_s: float = STEP_TIMEOUT_S

    def group(self, axis: Axis) -> dist.ProcessGroup | None:
        return self.groups[axis]


def alone() -> Processes:
    """The mesh of one rank, without a world: nothing is communicated."""
    mesh = Mesh()
    return Processes(mesh, 0, mesh.coordinates(0), dict.fromkeys(get_args(Axis)), None)


def environment_rank() -> tuple[int, int]:
    """Rank and world size from `torchrun`. Raises RankMissingError outside of torchrun."""
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except KeyError as error:
        raise RankMissingError(
            f"{error} is not set: start the ranks with `torchrun --standalone --nproc-per-node N -m ...`"
        ) from None


def own_device() -> torch.device:
    """The CUDA device of torchrun's LOCAL_RANK if there is CUDA, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def join(*, timeout_s: float = JOIN_TIMEOUT_S, backend: str | None = None) -> tuple[int, int]:
    """Join the default process group of `torchrun`'s environment; returns rank and world size.

    The backend is NCCL where there is CUDA, else gloo. Raises RankMissingError where some ranks do not join in time.
    """
    rank, world_size = environment_rank()
    chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    if chosen == "nccl":
        torch.cuda.set_device(own_device())
    try:
        # gloo meets in the store only at the first collective, so a barrier proves that all ranks are here
        dist.init_process_group(
            chosen, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
        )
        dist.barrier()
    except (dist.DistError, RuntimeError) as error:
        raise RankMissingError(
            f"rank {rank} waited {timeout_s:.0f} s for the {world_size} ranks of this job, and not all joined: see "
            f"the other ranks' output for why one ended, and start all {world_size} together ({_first_line(error)})"
        ) from error
    return rank, world_size


def has_device_each(n_ranks: int) -> bool:
    """Whether every rank of this machine can have its own CUDA device."""
    return torch.cuda.is_available() and torch.cuda.device_count() >= n_ranks


def meet(
    meeting_file: str,
    rank: int,
    n_ranks: int,
    *,
    is_cuda: bool | None = None,
    timeout_s: float = STEP_TIMEOUT_S,
) -> torch.device:
    """Join the default process group of ranks on one machine, which meet through a file; returns this rank's device.

    They communicate over the loopback interface (gloo), with `is_cuda` over NCCL; None: if each has its own device. A
    collective that waits longer than `timeout_s` raises. Raises RankMissingError where some ranks do not join.
    """
    device, backend = torch.device("cpu"), "gloo"
    if has_device_each(n_ranks) if is_cuda is None else is_cuda:
        device, backend = torch.device("cuda", rank), "nccl"
        torch.cuda.set_device(device)
    _talk_over_loopback()
    store = dist.FileStore(meeting_file, n_ranks)  # type: ignore[attr-defined]  # public, but in no __all__
    store.set_timeout(timedelta(seconds=MEETING_TIMEOUT_S))
    try:
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=n_ranks, timeout=timedelta(seconds=timeout_s)
        )
        dist.barrier()  # gloo may connect at the first collective only
    except (dist.DistError, RuntimeError) as error:
        raise RankMissingError(f"rank {rank} of {n_ranks} could not join the others: {error}") from error
    return device


def _talk_over_loopback() -> None:
    """Make gloo use the loopback interface instead of the address of the host's name, which other machines can reach."""
    names = {name for _, name in socket.if_nameindex()}
    for name in ("lo", "lo0"):
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            return


def connect(mesh: Mesh, *, timeout_s: float = STEP_TIMEOUT_S) -> Processes:
    """Make the groups of `mesh` within the joined world; every rank must call it, with the same mesh.

    A collective that waits longer than `timeout_s` raises. Raises MeshError where the world has another size.
    """
    if dist.get_world_size() != mesh.world_size:
        raise MeshError(
            f"{mesh} needs {mesh.world_size} ranks (dp * tp * pp) and there are {dist.get_world_size()}"
        )
    rank = dist.get_rank()
    groups: dict[Axis, dist.ProcessGroup | None] = {}
    with naming_lost_ranks():
        for axis in get_args(Axis):
            groups[axis] = _own_group(mesh.groups(axis), rank, timeout_s)
        ends = None
        if mesh.pp > 1:
            stage_ends = tuple((members[0], members[-1]) for members in mesh.groups("pp"))
            ends = _own_group(stage_ends, rank, timeout_s)
    return Processes(mesh, rank, mesh.coordinates(rank), groups, ends, timeout_s)


def disconnect() -> None:
    """Leave the world; afterwards `join` may be called again."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_ranks_on_host(timeout: timedelta) -> dist.ProcessGroup:
    """Make a group of all ranks for objects and other data in the host's memory. All ranks must call it."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)  # not torch's marker for ranks outside of the group
    return group


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Context that turns a backend's error about a lost or silent peer into a RankMissingError."""
    try:
        yield
    except RankMissingError:
        raise
    except (dist.DistError, RuntimeError) as error:
        if not _is_about_a_peer(error):
            raise
        rank = dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "-1"))
        raise RankMissingError(
            f"rank {rank} lost another rank, or waited for it too long: see the other ranks' output for why it ended "
            f"or hangs, then resume from the last checkpoint ({_first_line(error)})"
        ) from error


def _own_group(
    members_of_all: tuple[tuple[int, ...], ...], rank: int, timeout_s: float
) -> dist.ProcessGroup | None:
    """Make all groups of an axis, which every rank must do in the same order; returns this rank's."""
    own: dist.ProcessGroup | None = None
    for members in members_of_all:
        if len(members) > 1:
            group = dist.new_group(list(members), timeout=timedelta(seconds=timeout_s))
            if rank in members:
                assert isinstance(
                    group, dist.ProcessGroup
                )  # not torch's marker for ranks outside of the group
                own = group
    return own


def _is_about_a_peer(error: Exception) -> bool:
    # most of these are plain RuntimeErrors, known by the messages of gloo, NCCL and the store
    signs = (
        "timed out",
        "timeout",
        "connection closed",
        "connection reset",
        "connection refused",
        "broken pipe",
    )
    text = str(error).lower()
    return isinstance(error, dist.DistNetworkError | dist.DistStoreError) or any(
        sign in text for sign in signs
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
