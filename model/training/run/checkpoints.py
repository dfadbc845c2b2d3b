"""Checkpoints of one training run on disk: a folder per saved step, whole or absent.

Each is also a model folder (model/checkpoint.py), so a run's newest weights can be served or evaluated as they are. The
other parts are in the same folder, without pickle: safetensors for tensors, state.json for the rest with every file's
SHA-256. An older checkpoint is removed only after a newer one is safely on disk and a step was made from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.checkpoint import load_config, write_model
from model.config import ModelConfig
from model.new_folder import new_folder
from model.training.run.errors import DamagedCheckpointError
from model.training.run.folder import is_step_folder, step_folders, step_number
from model.training.run.state import MODEL, Snapshot

FORMAT = "gainshare.training/1"
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that could be read, and why newer ones could not."""

    folder: Path
    snapshot: Snapshot
    model: ModelConfig
    damaged: tuple[str, ...] = field(default=())


class Checkpoints:
    """Checkpoints in the folder `root`, which the first save makes. One process at a time may save."""

    def __init__(self, root: Path, *, keep: int) -> None:
        if keep < 1:
            raise ValueError("at least one checkpoint must be kept")
        self.root, self.keep = root, keep
        self._good: Path | None = None  # the newest that a step has been made from

    def folders(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return step_folders(self.root)

    def save(
        self,
        snapshot: Snapshot,
        model: ModelConfig,
        *,
        metadata: Mapping[str, Any],
        files: Mapping[str, str] | None = None,
    ) -> Path:
        """Writes one checkpoint, then removes the oldest beyond `keep`, but never the newest good one or later ones.

        Raises OSError (full disk, no permission) with the earlier checkpoints untouched and nothing half-written left.
        """
        folder = self.root / f"step-{snapshot.progress.step:08d}"
        try:
            with new_folder(folder, is_ours=is_step_folder, name="checkpoint") as partial:
                _write(partial, snapshot, model, metadata=metadata, files=files or {})
        except SafetensorError as error:
            raise _system_error(error, folder) from error
        for later in self.folders()[self._n_before(folder) + 1 :]:
            shutil.rmtree(later)  # damaged, or this run would have resumed from it
        self._remove_oldest()
        return folder

    def mark_good(self, folder: Path) -> None:
        """Note that a step was made from `folder`, so that older checkpoints may be removed."""
        self._good = folder
        self._remove_oldest()

    def before(self, folder: Path) -> Path | None:
        """The checkpoint that was saved before `folder`, where it is still there."""
        n_before = self._n_before(folder)
        return self.folders()[n_before - 1] if n_before else None

    def newest(self) -> Loaded | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Raises DamagedCheckpointError where all are damaged.
        """
        damaged: list[str] = []
        for folder in reversed(self.folders()):
            try:
                snapshot, model = load(folder)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
            else:
                return Loaded(folder, snapshot, model, tuple(damaged))
        if damaged:
            raise DamagedCheckpointError("; ".join(damaged))
        return None

    def remove_leftovers(self) -> None:
        """Remove what killed saves left behind; only while no other process saves here."""
        for partial in self.root.glob(".step-*.new-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _remove_oldest(self) -> None:
        if self._good is None:
            return
        folders = self.folders()
        n_too_many = max(0, len(folders) - self.keep)
        for old in folders[: min(n_too_many, self._n_before(self._good))]:
            shutil.rmtree(old)

    def _n_before(self, folder: Path) -> int:
        return sum(step_number(other) < step_number(folder) for other in self.folders())


def load(folder: Path) -> tuple[Snapshot, ModelConfig]:
    """A checkpoint's contents, every file checked against its hash. Raises DamagedCheckpointError."""
    try:
        document = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        facts, hashes = document["facts"], document["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{folder / STATE_FILE} cannot be read: {error}") from error
    if document.get("format") != FORMAT:
        raise DamagedCheckpointError(
            f"{folder} has format {document.get('format')!r}; this version reads {FORMAT!r}"
        )
    if _facts_hash(facts) != document.get("facts_sha256"):
        raise DamagedCheckpointError(f"{folder / STATE_FILE} is damaged: its contents have another hash")
    for name, expected in hashes.items():
        _require_hash(folder / name, expected)
    model, _ = load_config(folder)
    tensors = [name for name in hashes if name.endswith(".safetensors")]
    return Snapshot({Path(name).stem: load_file(folder / name) for name in tensors}, facts), model


def _system_error(error: SafetensorError, folder: Path) -> OSError:
    """The system's error in the text of safetensors' own."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"{folder} cannot be written: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(folder))


def _write(
    folder: Path,
    snapshot: Snapshot,
    model: ModelConfig,
    *,
    metadata: Mapping[str, Any],
    files: Mapping[str, str],
) -> None:
    """All files of a checkpoint into `folder`, state.json last."""
    write_model(folder, model, snapshot.tensors[MODEL], metadata=metadata, files=files)
    for part, tensors in snapshot.tensors.items():
        if part != MODEL:
            file = folder / f"{part}.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
            file.chmod(0o644)  # safetensors makes it private, the other files are not
    _write_state(folder, snapshot.facts)


def _write_state(folder: Path, facts: dict[str, Any]) -> None:
    hashes = {path.name: _file_hash(path) for path in sorted(folder.iterdir())}
    document = {"format": FORMAT, "facts": facts, "facts_sha256": _facts_hash(facts), "sha256": hashes}
    (folder / STATE_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _facts_hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file_hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _require_hash(file: Path, expected: str) -> None:
    try:
        found = _file_hash(file)
    except OSError as error:
        raise DamagedCheckpointError(f"{file} cannot be read: {error.strerror}") from error
    if found != expected:
        raise DamagedCheckpointError(f"{file} is damaged: its contents are not those that were written")
