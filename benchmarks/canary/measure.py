"""Carries out one canary: checks the trees, times the candidate against the served tree, builds the document."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.canary.comparison import Comparison
from benchmarks.canary.document import build_document
from benchmarks.canary.node import NodeFailed, NodeSetup
from benchmarks.canary.node_pair import CANDIDATE, PARTNER
from benchmarks.canary.order import CanaryOrder
from benchmarks.canary.tokens import tokenizer_of
from benchmarks.canary.work import Work
from benchmarks.confined_node.folders import make_readable
from benchmarks.pairs.builds.build import LIBRARY
from benchmarks.pairs.cores import judge_on
from benchmarks.pairs.nameless import nameless_copy
from benchmarks.pairs.seeds import Seeds
from benchmarks.patch.trees import TreeEntry, TreeError, hash_entries, scan_files, sha256_hex
from benchmarks.runner.fingerprint import environment
from benchmarks.sandbox.accounting.placement import counted_by
from benchmarks.sandbox.readable import readable

INSTALLED = "installed"  # name of the installed tree's folder
SERVED, BEST = "served", "best"
Say = Callable[[str], None]


class CannotMeasure(Exception):
    """The canary could not be carried out; the message says why, and nothing of the candidate."""


@dataclass(frozen=True)
class Place:
    """`trees` has one folder a tree, named by its hash; `folder` is private; `seats` are of users no other node has."""

    trees: Path
    folder: Path
    seats: tuple[int, int]


def measure(
    order: CanaryOrder, place: Place, setup: NodeSetup, *, say: Say, device: AbstractContextManager[None]
) -> dict[str, Any]:
    """The canary's document with its verdict. `device` is held while nodes run. Raises CannotMeasure."""
    names = {SERVED: order.served, CANDIDATE: order.candidate, BEST: order.best}
    folders = {name: _tree_folder(place.trees, tree) for name, tree in names.items()}
    hashes = {name: _checked_hash(folders[name], tree) for name, tree in names.items()}
    secret, seeds = Seeds.fresh()
    try:
        tokenizer = tokenizer_of(setup.models, setup.model)
        if setup.models is not None and setup.models.is_dir():
            make_readable(setup.models)
    except (OSError, ValueError) as error:
        raise CannotMeasure(str(error)) from None
    comparisons: list[Comparison] = []
    with device, _work_folder(place.folder) as folder, ExitStack() as copies, judge_on(setup.cores.judge):
        started_at = datetime.now(UTC)
        code = {name: copies.enter_context(nameless_copy(tree)) for name, tree in folders.items()}
        try:
            work = Work(order.plan, seeds, tokenizer)
            for against in (SERVED, BEST) if order.best != order.served else (SERVED,):
                trees = {CANDIDATE: code[CANDIDATE], PARTNER: code[against]}
                comparison = Comparison(
                    against, trees, folder / against, place.seats, setup, work, tokenizer, on_progress=say
                )
                comparisons.append(comparison)
                comparison.run()
                if comparison.event is not None:
                    break
        except NodeFailed as failure:
            whose = comparisons[-1].against if comparisons else SERVED
            raise CannotMeasure(f"the {whose} tree's node failed: {failure}") from None
        except ValueError as error:
            raise CannotMeasure(str(error)) from None
    return build_document(
        order,
        hashes=hashes,
        environment=environment(),
        sandbox={"level": setup.level.value, "counted_by": counted_by(), "core": setup.cores.measuring},
        device=setup.device,
        memory_bytes=setup.memory_bytes,
        arguments=list(setup.arguments),
        secret=secret.hex(),
        comparisons=[one.as_json() for one in comparisons],
        planted=sum(one.leaks.planted for one in comparisons),
        events=[one.event for one in comparisons if one.event is not None],
        started_at=started_at,
        finished_at=datetime.now(UTC),
    )


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A folder for this canary's nodes; what an ended one left is removed."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in parent.glob("canary-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="canary-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tree_folder(trees: Path, tree: str) -> Path:
    folder = trees / (tree or INSTALLED)
    if not (folder / "model").is_dir():
        raise CannotMeasure(f"{folder} holds no model/: the tree must be fetched and built first")
    return folder


def _checked_hash(folder: Path, tree: str) -> str:
    """The hash of a built tree, its library left out. Raises CannotMeasure where it is not the one it is named by."""
    found = tree_hash(folder)
    if tree and found != tree:
        raise CannotMeasure(f"{folder} holds the tree {found[:12]}, not {tree[:12]}: fetch it again")
    return found


def tree_hash(folder: Path) -> str:
    """The hash of `folder/model`, without the library that a build put there. Raises CannotMeasure."""
    try:
        entries = [
            TreeEntry(path, mode, sha256_hex(data))
            for path, mode, data in scan_files(folder, "model")
            if path != f"model/{LIBRARY}"
        ]
    except (OSError, TreeError) as error:
        raise CannotMeasure(f"{folder} cannot be read: {readable(str(error))}") from None
    return hash_entries(entries)
