"""The content of the code that a result comes from. Knows nothing of git: uncommitted changes count."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("model", "benchmarks/claims")
SUFFIXES = frozenset({".py", ".cpp", ".h", ".toml"})


def source_sha256(root: Path = ROOT) -> str:
    """Of all source files of the stack and of the claims, with their paths."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in SUFFIXES and file.is_file():
                content = file.read_bytes()
                digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()
