"""Paths in a run's output folder, and its lock: one process at a time writes there. Does not import torch."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.training.run.errors import FolderInUseError

STEP_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RunFolder:
    """The output folder of one run. Folders are made when they are first needed."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def model(self) -> Path:
        """The trained model, ready to serve."""
        return self.root / "model"

    def bad_batch(self, step: int) -> Path:
        """File of the batch on which step `step`, counted as in the log, failed."""
        return self.root / f"bad-batch-step-{step}.safetensors"

    def saved(self) -> list[Path]:
        """The run's complete checkpoints, oldest first."""
        return step_folders(self.checkpoints)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it. Raises FolderInUseError; the system unlocks it when the process ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                raise FolderInUseError(
                    f"process {owner} trains into {self.root}: wait for it, stop it, or choose another output"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def step_folders(checkpoints: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if is_step_folder(path) and path.is_dir()]
    return sorted(found, key=step_number)


def is_step_folder(path: Path) -> bool:
    """Whether a path is named like a checkpoint folder; its content is not checked."""
    return STEP_FOLDER.fullmatch(path.name) is not None


def step_number(folder: Path) -> int:
    """The step of a folder that `is_step_folder` accepts."""
    return int(folder.name.removeprefix("step-"))
