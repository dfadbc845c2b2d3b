"""The demo's engine: its base answers by plain torch, and its fix is the shipped tree again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.patch.deployable import check_deployable
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.policy import check_patch, load_policy
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BASE = EXAMPLES / "base" / "textbook_engine.diff"
FIX = EXAMPLES / "engine" / "compiled_executor.diff"
CHOICE = {"model/serving/executors/choice.py", "model/serving/executors/streamed.py"}


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def base(store: BlobStore) -> Tree:
    return apply_patch(shipped_tree(store), parse_patch(BASE.read_bytes()), store)


def test_the_fix_makes_the_shipped_tree_of_the_base(store: BlobStore, base: Tree) -> None:
    fixed = apply_patch(base, parse_patch(FIX.read_bytes()), store)
    assert fixed.hash == shipped_tree(store).hash != base.hash


def test_base_and_fix_are_within_the_policy_and_may_serve(store: BlobStore, base: Tree) -> None:
    for file in (BASE, FIX):
        patch = parse_patch(file.read_bytes())
        assert set(patch.paths) == CHOICE
        check_patch(load_policy(), patch)
    check_deployable(base, shipped_tree(store), load_policy())


def test_the_base_chooses_plain_torch_wherever_a_node_loads_a_model(store: BlobStore, base: Tree) -> None:
    """A node reads its weights by `streamed`, and swaps models by `choice`."""
    for path in CHOICE:
        entry = base.get(path)
        assert entry is not None and b"native" not in store.get(entry.blob)
