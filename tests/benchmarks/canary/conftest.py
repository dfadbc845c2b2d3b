"""What tests of real nodes share: the installed tree, built once a module, and a folder that nodes can reach."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.canary.trees import built_tree
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    level_or_skip("best")  # before anything is built
    return built_tree(tmp_path_factory.mktemp("trees") / "installed")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Everyone may pass through the folders above: as root, nodes have users of their own."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        if path.stat().st_uid == os.getuid() and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o711)
    yield tmp_path
