"""`python -m benchmarks.canary`: time a tree as a node serves it, against the tree that is served now.

    python -m benchmarks.canary --order FILE --trees FOLDER --folder PRIVATE --key KEYFILE --output FILE
    python -m benchmarks.canary --compare SERVED CANDIDATE --model NAME

The first form carries out a site's order and writes the sealed document; progress is on stderr. The second one prints
the table of two folders that hold `model/`, for contributors: it is signed by no one and counts for nothing.

Exit status: 0 with a document, passed or refused; 3 where the canary could not be carried out, with the reason in the
last line on stderr; 2 for options that cannot work. A signal ends it and its nodes at once.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.canary.document import seal, verdict_from_dict, write_sealed
from benchmarks.canary.measure import INSTALLED, CannotMeasure, Place, measure, tree_hash
from benchmarks.canary.node import NodeSetup
from benchmarks.canary.order import CanaryOrder, Plan, Shape
from benchmarks.canary.schema import validate_order
from benchmarks.canary.table import table
from benchmarks.commands import check_output, dying_of_signals
from benchmarks.confined_node.folders import installed_tree
from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.evidence.canonical import NotCanonical, canonical_bytes, parse
from benchmarks.evidence.schema import EvidenceError
from benchmarks.evidence.signing import KeyFileError, load_key
from benchmarks.pairs.builds.build import LIBRARY, build_tree, has_native
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.side import SideFailed
from benchmarks.runner.device_lock import device_lock
from benchmarks.sandbox import SandboxError, SandboxLevel, best_level
from benchmarks.sandbox.devices import CPU, DEVICES
from benchmarks.sandbox.levels import GIB

WRONG, NOT_CARRIED_OUT = 2, 3
SEATS = (12, 13)  # of a host's sixteen: its nodes take the first ones
BUILD_SLOT = 0
MOST_ORDER_BYTES = 1 << 20
DEFAULT_PLAN = Plan(shapes=(Shape(64, 16), Shape(160, 16), Shape(320, 16)))


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    needed = ("order", "trees", "folder", "key", "output")
    if not options.compare and (
        missing := [f"--{name}" for name in needed if getattr(options, name) is None]
    ):
        parser.error(f"{', '.join(missing)} are needed, or --compare")
    if len(set(options.seats)) != 2:
        parser.error("--seats are two different ones")
    with dying_of_signals():
        try:
            if options.compare:
                _compare(options)
            else:
                _carry_out(options)
        except (CannotMeasure, SandboxError, KeyFileError, EvidenceError, NotCanonical, OSError) as error:
            _say(f"error: {error}")
            return NOT_CARRIED_OUT
    return 0


def _carry_out(options: argparse.Namespace) -> None:
    order = read_order(options.order)
    key = load_key(options.key)
    check_output(options.output)
    place = Place(options.trees, options.folder, (options.seats[0], options.seats[1]))
    setup = _setup(options, order.model)
    document = measure(order, place, setup, say=_progress, device=_device(options.device))
    write_sealed(seal(document, key), options.output)
    _progress("passed" if document["verdict"]["passed"] else "refused")


def read_order(path: Path) -> CanaryOrder:
    """Raises CannotMeasure for a file that holds no order."""
    try:
        if path.stat().st_size > MOST_ORDER_BYTES:
            raise ValueError("it is too long")
        order = CanaryOrder.from_json(json.loads(path.read_bytes()))
        validate_order(parse(canonical_bytes(order.to_json())))
        return order
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CannotMeasure(f"{path} is no order of a canary: {error}") from None


def _compare(options: argparse.Namespace) -> None:
    """Two folders, by a plan of its own; the table goes to stdout."""
    with tempfile.TemporaryDirectory(prefix="gainshare-canary-") as name:
        folder = Path(name)
        setup = _setup(options, options.model)
        hashes = [_built_copy(Path(one), folder, setup.level) for one in options.compare]
        served, candidate = hashes
        order = CanaryOrder(
            id=uuid.uuid4(),
            model=options.model,
            served=served,
            candidate=candidate,
            best=served,
            nonce=secrets.token_hex(32),
            plan=Plan(DEFAULT_PLAN.shapes, pairs=options.pairs),
        )
        place = Place(folder / "trees", folder / "nodes", (options.seats[0], options.seats[1]))
        document = measure(order, place, setup, say=_progress, device=_device(options.device))
    sys.stdout.write(table(verdict_from_dict(document["verdict"])) + "\n")


def _built_copy(source: Path, folder: Path, level: SandboxLevel) -> str:
    """Copy a folder's `model/` and build it; its hash, which names the copy. Raises CannotMeasure."""
    copy = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    if str(source) == INSTALLED:
        installed_tree(copy)
    elif (source / "model").is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", LIBRARY)
        shutil.copytree(source / "model", copy / "model", ignore=ignored)
    else:
        raise CannotMeasure(f"{source} holds no model/: name the folder above it")
    found = tree_hash(copy)
    target = folder / "trees" / found
    if not target.exists():
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        if has_native(copy):
            _progress(f"building {source}")
            try:
                build_tree("candidate", copy, level=level, slot=BUILD_SLOT)
            except SideFailed as failure:
                raise CannotMeasure(f"{source} cannot be built: {failure.detail}") from None
        target.parent.mkdir(exist_ok=True)
        copy.rename(target)
    return found


@contextmanager
def _device(device: str) -> Iterator[None]:
    """Hold the judge's device while the block runs."""

    @contextmanager
    def waiting() -> Iterator[None]:
        _progress(f"waiting for the {device}, which another measurement holds")
        yield

    with device_lock(device, waiting=waiting):
        yield


def _setup(options: argparse.Namespace, model: str) -> NodeSetup:
    level = SandboxLevel(options.level) if options.level else best_level()
    memory_bytes = int(options.memory_gib * GIB) if options.memory_gib else default_memory_bytes() // 3
    return NodeSetup(
        model=model,
        models=options.models,
        level=level,
        device=options.device,
        memory_bytes=memory_bytes,
        cores=choose_cores(),
        arguments=[word for word in options.node if word != "--"],
    )


def _progress(text: str) -> None:
    _say(f"progress: {text}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.canary",
        description="Time a tree as a node serves it, against the tree that is served now.",
        epilog="Exit status: 0 with a document or table; 3 if it could not be carried out; 2 for wrong options.",
    )
    parser.add_argument("--order", type=Path, help="the site's order, a JSON file")
    parser.add_argument(
        "--trees", type=Path, help=f"folder with one folder a tree, by hash or '{INSTALLED}', each built"
    )
    parser.add_argument("--folder", type=Path, help="private folder for the two nodes")
    parser.add_argument("--key", type=Path, help="the host's private key, a PEM file")
    parser.add_argument("--output", type=Path, help="where the sealed document goes")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("SERVED", "CANDIDATE"),
        help=f"instead of an order: two folders that hold model/, or '{INSTALLED}'; prints the table",
    )
    parser.add_argument("--model", default="tiny", help="with --compare: the model's name in the store")
    parser.add_argument(
        "--pairs", type=int, default=DEFAULT_PLAN.pairs, help="with --compare: how many pairs"
    )
    parser.add_argument("--models", type=Path, help="the local store of models")
    parser.add_argument(
        "--level", choices=[level.value for level in SandboxLevel], help="default: the best of this machine"
    )
    parser.add_argument("--device", choices=DEVICES, default=CPU, help="what the nodes compute on")
    parser.add_argument(
        "--memory-gib", type=float, help="limit of memory of each node; default: a quarter of the machine's"
    )
    parser.add_argument(
        "--seats", type=int, nargs=2, default=SEATS, help="seats of the two nodes that no other node has"
    )
    parser.add_argument("node", nargs=argparse.REMAINDER, help="after --: options of both nodes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
