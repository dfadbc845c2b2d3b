"""Trees changed by way of real patches, and pairs of real sandboxes over two of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.pairs.builds.memory import REMEMBERED
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pair import SLOTS, Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideSetup
from benchmarks.patch.patches import apply_patch, diff_trees, parse_patch
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry
from benchmarks.sandbox import best_level
from benchmarks.suites import Suite


def replaced(base: Tree, path: str, content: bytes, store: BlobStore) -> Tree:
    """`base` with one of its files replaced, by way of a real patch."""
    blob = store.put(content)
    entries = [TreeEntry(path, old.mode, blob) if old.path == path else old for old in base.entries]
    patch = parse_patch(diff_trees(base, Tree(tuple(entries)), store))
    return apply_patch(base, patch, store)


@contextmanager
def prepared_pair(
    suite: Suite,
    base: Tree,
    candidate: Tree,
    *,
    store: BlobStore,
    folder: Path,
    is_control: bool = False,
    seeds: Seeds | None = None,
) -> Iterator[Pair]:
    """A pair of the suite's first case, both sides built and loaded; trees are written below `folder`."""
    seeds = seeds or Seeds.fresh()[1]
    tree = "base" if is_control else "candidate"
    plan = PairPlan(0, suite.cases[0].name, suite.cases[0].draw(seeds.numbers("shape")), tree)
    setup = SideSetup(suite, best_level(), choose_cores())
    with tree_folders((base, candidate), store, folder / "trees") as folders:
        trees = {"base": folders[base.hash], "candidate": folders[candidate.hash]}
        for name, tree in trees.items():
            REMEMBERED.build(name, tree, level=setup.level, slot=SLOTS[name])
        with closing(NamelessCopies(trees)) as copies:
            pair = Pair(plan, copies, setup, seeds, Phases(), Quiet(), SampleLog(print))
            try:
                pair.prepare()
                yield pair
            finally:
                pair.close()
