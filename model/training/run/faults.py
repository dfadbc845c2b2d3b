"""Explain the errors that end a training run early: a message with the next step, and an exit status, for each kind.

Does not import torch until it is asked about an error.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.data.errors import DataError, StateError
from model.new_folder import FolderTakenError
from model.parallel.mesh.mesh import MeshError
from model.training.run.errors import (
    DamagedCheckpointError,
    FolderInUseError,
    NotFiniteError,
    NotFiniteWeightsError,
    RunExistsError,
    RunFailedError,
    SavedStateError,
)

# Exit statuses; 1 is any other failure, 128 + n a signal's.
USAGE, OUT_OF_MEMORY, NOT_FINITE, DISK, DATA, CHECKPOINT, IN_USE, RANK_LOST = 2, 3, 4, 5, 6, 7, 8, 9

OTHER_RUN = "Take the configuration that the run was started with, or choose another output"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CPU_ALLOCATION_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory")


@dataclass(frozen=True)
class Fault:
    """`code` is for programs, `message` says what happened, `action` what to do."""

    code: str
    exit_status: int
    message: str
    action: str

    def __str__(self) -> str:
        end = "" if self.message.endswith((".", "?", "!")) else "."
        return f"{self.message}{end} {self.action}"


def explain(error: BaseException, command: str, *, is_resumed: bool = False) -> Fault | None:
    """The fault behind `error`; None for an unforeseen one.

    `command` starts this run again; `is_resumed` says that it was started with --resume.
    """
    failed = error if isinstance(error, RunFailedError) else None
    cause = error.__cause__ if failed is not None else error
    assert cause is not None
    resume = _resume(failed, command, is_resumed=is_resumed)
    where = _where(failed)
    if isinstance(cause, ConfigError | MeshError):
        return Fault("usage", USAGE, str(cause), "Correct that and start again")
    if isinstance(cause, RunExistsError):
        action = f"`{command} --resume` continues it; else choose another output"
        return Fault("run_exists", USAGE, str(cause), action)
    if isinstance(cause, FolderTakenError):
        return Fault("usage", USAGE, str(cause), "Then start again")
    if isinstance(cause, FolderInUseError):
        return Fault("in_use", IN_USE, str(cause), "Then start again")
    if isinstance(cause, CheckpointError | DamagedCheckpointError | SavedStateError):
        return Fault("checkpoint", CHECKPOINT, str(cause), _usable_checkpoint(cause))
    if isinstance(cause, NotFiniteError | NotFiniteWeightsError):
        return _not_finite(cause, failed, command)
    if isinstance(cause, StateError):
        return Fault(
            "data",
            DATA,
            f"the run cannot continue with this data: {cause}",
            "To start again, choose another output",
        )
    if isinstance(cause, DataError) or _is_unanswered(cause):
        return Fault(
            "data", DATA, f"the data cannot be used {where}: {cause}", f"When that is done, {resume}"
        )
    if _is_lost_rank(cause):
        return Fault("rank_lost", RANK_LOST, f"{cause} {where}", f"When that is repaired, {resume}")
    if isinstance(cause, OSError):
        return _system_refused(cause, failed, where, resume)
    if _is_compiler(cause):
        action = (
            f"Remove {_compiled()} if it is damaged there, or set [compute] compile = false; then {resume}"
        )
        message = f"torch.compile failed {where}: {_first_line(cause)}"
        return Fault("compile_failed", 1, message, action)
    if is_out_of_memory(cause):
        message = f"out of memory {where}: {_first_line(cause)}"
        return Fault("out_of_memory", OUT_OF_MEMORY, message, f"{_less_memory(failed)}; then {resume}")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory ran out; CPU allocations fail with a plain RuntimeError."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in CPU_ALLOCATION_MESSAGES)


def _is_lost_rank(cause: BaseException) -> bool:
    """Whether one of several processes was lost or did not start."""
    from model.parallel.mesh.processes import RankMissingError

    return isinstance(cause, RankMissingError)


def _is_compiler(cause: BaseException) -> bool:
    """Whether torch.compile's back end failed; files that a killed process left in its folder make it fail each time."""
    from torch._dynamo.exc import BackendCompilerFailed

    return isinstance(cause, BackendCompilerFailed) and not is_out_of_memory(cause)


def _compiled() -> str:
    """The folder that torch keeps compiled blocks in."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return str(cache_dir())


def _is_unanswered(cause: BaseException) -> bool:
    """Whether a teacher's cache lacks some of the data."""
    from model.distill.errors import CacheError

    return isinstance(cause, CacheError)


def _not_finite(
    cause: NotFiniteError | NotFiniteWeightsError, failed: RunFailedError | None, command: str
) -> Fault:
    is_made = isinstance(cause, NotFiniteWeightsError)
    message = f"{cause}; " + ("nothing was saved" if is_made else "nothing was updated by it")
    if failed is not None and failed.batch_file is not None:
        message = f"{cause} (its batch is in {failed.batch_file}); nothing was updated by it"
    slower = "ower [recipe] learning_rate or clip_norm, or raise warmup_steps"
    if failed is None or not failed.is_dead_end:
        return Fault("not_finite", NOT_FINITE, message, f"L{slower}; then {_resume(failed, command)}")
    after = (
        f"`{command} --resume` continues from {failed.earlier}"
        if failed.earlier is not None
        else f"`{command}` starts again"
    )
    return Fault(
        "not_finite",
        NOT_FINITE,
        message,
        f"The first step from {failed.saved} fails again each time: remove that folder and l{slower}; then {after}",
    )


def _system_refused(cause: OSError, failed: RunFailedError | None, where: str, resume: str) -> Fault:
    place = failed.output if failed is not None else Path.cwd()
    if cause.errno not in FULL:
        name = f"{cause.filename}: " if cause.filename else ""
        return Fault(
            "os_error", 1, f"{name}{cause.strerror or cause} {where}", f"When that is repaired, {resume}"
        )
    try:
        free = f" ({shutil.disk_usage(place).free / 2**20:,.0f} MiB free)"
    except OSError:
        free = ""
    return Fault(
        "disk_full",
        DISK,
        f"{cause.filename or place}: {cause.strerror} {where}{free}",
        f"Free space there or lower [saving] keep; then {resume}",
    )


def _usable_checkpoint(cause: BaseException) -> str:
    """Advice about a checkpoint that cannot be used."""
    if isinstance(cause, SavedStateError):
        return OTHER_RUN
    if isinstance(cause, DamagedCheckpointError):
        return "Remove what is damaged and start again, or choose another output"
    return "When that is done, start again"


def _less_memory(failed: RunFailedError | None) -> str:
    """Advice after memory ran out; before the first step it is the model that does not fit."""
    smaller = 'make [model] smaller or set [recipe] optimizer = "adamw_8bit"'
    if failed is None:
        return f"The model is too large for this machine: {smaller}"
    action = 'Raise [compute] micro_batches or set checkpointing = "full" there'
    return action if failed.step else f"{action}; where that is not enough, {smaller}"


def _where(failed: RunFailedError | None) -> str:
    if failed is None:
        return "before the first step"
    return f"after step {failed.step}" if failed.step else "in the first step"


def _resume(failed: RunFailedError | None, command: str, *, is_resumed: bool = False) -> str:
    if failed is None or failed.saved is None:
        return f"`{command}{' --resume' if is_resumed else ''}` starts again"
    return f"`{command} --resume` continues from {failed.saved}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
