"""Packed weights kept on disk: the first load writes them to a file, later ones map it.

    HOME/packed/<model folder>-<hash of its path>-<form>.packed

A file holds the weights of one model folder in one form. Its key is made of the folder's files (their sizes and times),
the model's shape and dtype, this stack's code and the processor: if any of them changes, the file is
replaced. Processes that map the old one keep it. Files whose model is gone are removed when another is written; all
may be deleted at any time.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from model import kernel_ways
from model.home import FolderNotOwnError, home_folder, make_own
from model.serving.executors.native_weights import NativeWeights, least_bytes
from model.serving.executors.packed import Weights
from model.serving.executors.packed_memory import (
    HUGE_BYTES,
    FilledMemory,
    PackedFileError,
    WrittenMemory,
    mapped,
)
from model.serving.executors.stored import StoredWeights

FORMAT = "gainshare packed weights, 1"
SUFFIX = ".packed"
WRITING = ".writing"
LOCK = ".lock"
MOST_NAME = 80  # characters of the model folder's name
HEADER_BYTES = HUGE_BYTES  # JSON, a line feed and padding: data begins on a huge page
CODE = Path(__file__).resolve().parents[2]
CODE_SUFFIXES = (".py", ".cpp", ".h")
log = logging.getLogger(__name__)


def packed_home(home: Path | None = None) -> Path:
    """`HOME/packed`; HOME as `home_folder` has it."""
    return home_folder(home) / "packed"


def kept_weights(
    library: ctypes.CDLL, stored: StoredWeights, weights: Weights, folder: Path
) -> NativeWeights:
    """Pack `stored` in form `weights`, or map it from a file in `folder`, which is written first if it is missing.

    Where the file cannot be written or read, or would take more than half of the disk's free space, the log says why and
    weights are packed into memory, as without a folder. Raises what `NativeWeights` raises.
    """
    place = _Place(folder, stored, weights)
    try:
        make_own(folder)
        data = place.opened()
        if data is None:
            with _locked(folder):  # another process may have written it meanwhile
                data = place.opened()
                if data is None:
                    data = _written(library, stored, weights, place)
        return _filled(library, stored, weights, data)
    except PackedFileError as error:
        place.file.unlink(missing_ok=True)
        log.warning("%s is not used: %s", place.file, error)
    except (OSError, FolderNotOwnError) as error:
        log.warning("packed weights are not kept in %s: %s", folder, error)
    return NativeWeights(library, stored.transformer, weights, stored=stored)


def _written(library: ctypes.CDLL, stored: StoredWeights, weights: Weights, place: _Place) -> Tensor:
    needed = least_bytes(stored.transformer, weights)
    if needed > shutil.disk_usage(place.file.parent).free // 2:  # leaves space for other writers
        raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are more than half of the disk's free space")
    log.info("packed weights, %d MiB, are kept in %s for the next load", needed >> 20, place.file)
    with place.writing() as memory:
        NativeWeights(library, stored.transformer, weights, stored=stored, memory=memory)
    data = place.opened()
    if data is None:
        raise PackedFileError("the model's files changed while it was written")
    return data


def _filled(library: ctypes.CDLL, stored: StoredWeights, weights: Weights, data: Tensor) -> NativeWeights:
    memory = FilledMemory(data)
    found = NativeWeights(library, stored.transformer, weights, stored=stored.described(), memory=memory)
    memory.check_end()
    return found


class _Place:
    """Path and key of the file of one model folder in one form."""

    def __init__(self, folder: Path, stored: StoredWeights, weights: Weights) -> None:
        self._stored, self._weights = stored, weights
        self._model = stored.files[0].resolve().parent
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self._model.name)[:MOST_NAME]
        path = hashlib.sha256(os.fsencode(self._model)).hexdigest()[:8]
        self.file = folder / f"{name}-{path}-{weights}{SUFFIX}"

    def opened(self) -> Tensor | None:
        """Map the packed weights; None if there is no such file, or one of another key. Raises OSError."""
        try:
            with self.file.open("rb") as file:
                header = _header(file)
                size = os.fstat(file.fileno()).st_size - HEADER_BYTES
                if (header.get("key"), header.get("bytes")) != (self._key(), size):
                    return None
                return mapped(file, HEADER_BYTES)
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self) -> Iterator[WrittenMemory]:
        """Memory that is written to the file, whole or not at all. Under `_locked`. Raises OSError."""
        _remove_leftovers(self.file.parent)
        partial = self.file.with_suffix(WRITING)
        key = self._key()  # of the files before they are read
        try:
            with partial.open("wb") as file:
                file.seek(HEADER_BYTES)
                memory = WrittenMemory(file)
                yield memory
                memory.finish()
                header = {"format": FORMAT, "key": key, "bytes": file.tell() - HEADER_BYTES}
                file.seek(0)
                file.write(json.dumps(header | {"model": os.fsdecode(self._model)}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.file)
        finally:
            partial.unlink(missing_ok=True)

    def _key(self) -> str:
        transformer = self._stored.transformer
        stats = [(file.name, file.stat()) for file in self._stored.files]
        files = [[name, each.st_size, each.st_mtime_ns, each.st_ctime_ns] for name, each in stats]
        parts = [FORMAT, self._weights, repr(transformer.config), str(transformer.dtype), files]
        return hashlib.sha256(json.dumps([*parts, _code(), kernel_ways.processor()]).encode()).hexdigest()


def _header(file: BinaryIO) -> dict[str, Any]:
    """The header of a file; empty if it has none of ours."""
    try:
        header = json.loads(file.readline(HEADER_BYTES))
    except ValueError:
        return {}
    return header if isinstance(header, dict) and header.get("format") == FORMAT else {}


@cache
def _code() -> str:
    """Hash of all code that packing depends on."""
    digest = hashlib.sha256()
    for file in sorted(CODE.rglob("*")):
        if file.suffix in CODE_SUFFIXES:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(CODE)} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left, and files of removed models."""
    for partial in folder.glob(f"*{WRITING}"):
        partial.unlink(missing_ok=True)
    for kept in folder.glob(f"*{SUFFIX}"):
        with kept.open("rb") as file:
            model = _header(file).get("model")
        if model is None or not Path(model).is_dir():
            kept.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder for writing; the system unlocks it when the process ends.

    A sandbox may refuse locks (ENOSYS): there the folder is its one process's own.
    """
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
        yield
