"""What an agent keeps of each berth's node, so that its next start knows what still runs there."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Record:
    """The node that was started in a berth. Its token is in a file of its own. ``tree`` is empty for installed code."""

    node: UUID
    model: str
    port: int
    tree: str = ""


def write_record(file: Path, record: Record) -> None:
    """Replace the record atomically. Raises OSError."""
    text = {"node": str(record.node), "model": record.model, "port": record.port, "tree": record.tree}
    write_private(file, json.dumps(text))


def read_record(file: Path) -> Record | None:
    """The record, or None if there is none that can be read."""
    try:
        document = json.loads(file.read_text())
        return Record(
            UUID(document["node"]),
            str(document["model"]),
            int(document["port"]),
            str(document.get("tree", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_private(file: Path, text: str) -> None:
    """Replace a file atomically, readable for this user only from its first byte. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
