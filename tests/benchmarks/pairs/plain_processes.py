"""Samples of hostile suites as plain processes: as the judge starts them, without the sandbox, for tests of many cases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.pairs import side
from benchmarks.sandbox import Mount, Sample, SandboxLevel, spawn


@contextmanager
def plain_samples(folder: Path) -> Iterator[None]:
    """Within the block every side's sample is a plain process. Its harness is copied to `folder` once."""
    folder.mkdir()

    def plain(argv: Sequence[str], *, mounts: Sequence[Mount], env: Mapping[str, str], **how: Any) -> Sample:
        for mount in mounts:
            name = Path(mount.target).name
            if mount.target.startswith(f"{side.HARNESS}/") and not (folder / name).exists():
                shutil.copyfile(mount.source, folder / name)
        tree = next(mount.source.parent for mount in mounts if mount.target == "/tree/model")
        here = [
            word.replace(side.HARNESS, str(folder)) if word.startswith(side.HARNESS) else word
            for word in argv
        ]
        return spawn(
            here, mounts=(), env={**env, "HOSTILE_TREE": str(tree)}, **{**how, "level": SandboxLevel.NONE}
        )

    with mock.patch.object(side, "spawn", plain), mock.patch.object(side, "ENDING_S", 0.5):
        yield
