"""Versions and digests of what a measurement rests on: the packages that compute, and the compiler of native code.

A package's digest is the SHA-256 of its RECORD, the list of all its files with their hashes that its installer wrote.
The compiler's digest is the SHA-256 of its program. Nothing is imported for it.
"""

import shutil
import subprocess
from functools import cache
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from benchmarks.pairs.builds.build import COMPILERS, compiler_identity

PACKAGES = ("torch", "numpy", "cryptography")
NOT_INSTALLED = "not installed"
PATIENCE_S = 10.0


def packages() -> dict[str, dict[str, str]]:
    """`version` and `digest` of each of `PACKAGES`; the digest is empty where the package has no RECORD."""
    return {name: dict(_package(name)) for name in PACKAGES}


def compiler() -> dict[str, str]:
    """`version`, the first line that the compiler prints about itself, and `digest` of its program."""
    return dict(_compiler(compiler_identity()))


@cache
def _package(name: str) -> tuple[tuple[str, str], ...]:
    try:
        found = Distribution.from_name(name)
    except PackageNotFoundError:
        return (("version", NOT_INSTALLED), ("digest", ""))
    record = next((file for file in found.files or [] if file.name == "RECORD"), None)
    digest = sha256(record.read_binary()).hexdigest() if record is not None else ""
    return (("version", found.version), ("digest", digest))


@cache
def _compiler(identity: str) -> tuple[tuple[str, str], ...]:
    """Read the compiler once for each `identity`, which changes when another one is installed."""
    found = next((path for path in map(shutil.which, COMPILERS) if path is not None), None)
    if not identity or found is None:
        return (("version", NOT_INSTALLED), ("digest", ""))
    said = subprocess.run(
        [found, "--version"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    lines = said.stdout.splitlines()
    digest = sha256(Path(found).resolve().read_bytes()).hexdigest()
    return (("version", lines[0][:200] if lines else "unknown"), ("digest", digest))
