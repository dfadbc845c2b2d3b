"""`python -m benchmarks.bench`: the platform's judge on your own machine.

Same sandbox, same pairs, same statistics; the evidence is signed with a throw-away key and bound to no run, so it never
earns an award. Progress goes to stderr, the result to stdout.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

from benchmarks.catalogue import BUG, SUITES
from benchmarks.commands import check_output, ends_plainly
from benchmarks.runner.device_lock import device_lock
from benchmarks.evidence.bugs import BUG_KINDS
from benchmarks.evidence.signing import generate_key
from benchmarks.judging.job import Callbacks, Job, JobKind
from benchmarks.judging.judge import JudgeOptions, judge, suite_of
from benchmarks.pairs.builds.build import build_tree
from benchmarks.sandbox.devices import CPU, DEVICES
from benchmarks.pairs.side import SideFailed
from benchmarks.patch.layout import missing_modules
from benchmarks.patch.patches import MAX_PATCH_BYTES, PatchError, apply_patch, diff_trees, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from benchmarks.report import say
from benchmarks.judging.profiling import ProfileFailed, profile_tree
from benchmarks.judging.reproduction import MAX_REPRODUCTION_BYTES, NotAReproduction, read_reproduction
from benchmarks.sandbox import SandboxError, best_level
from benchmarks.statistics.gate import LOOKS
from benchmarks.statistics.units import signed_percent
from benchmarks.suites import UnknownSuite, get_suite
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, TreeError, read_tree, shipped_tree
from model.command_errors import CommandParser

SHIPPED = "shipped"
OF_ONE_TREE = ("aa", "reproduction")
REFUSALS = (ProfileFailed, TreeError, PatchError, UnknownSuite, SandboxError, NotAReproduction, OSError)


class Terminal:
    """Callbacks that tell a person on stderr how far it is."""

    def on_commitment(self, commitment: str) -> None:
        say(f"secrets committed: {commitment[:16]}...")

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        return False

    def on_pair(self, sealed: dict[str, Any]) -> None:
        """No platform keeps pairs of a local run."""

    def on_log(self, text: str) -> None:
        say(text.rstrip("\n"))


def load_tree(source: str, base: Tree, store: BlobStore) -> Tree:
    """A folder with `model/`, a diff against `base`, or "shipped". Raises TreeError, PatchError or OSError."""
    if source == SHIPPED:
        return shipped_tree(store)
    path = Path(source)
    if path.is_dir():
        return read_tree(path, store)
    return apply_patch(base, parse_patch(read_at_most(path, MAX_PATCH_BYTES)), store)


def read_at_most(path: Path, most: int) -> bytes:
    """The beginning of a file, a byte more than `most` where it has that many: it may be a device without end."""
    with path.open("rb") as file:
        return file.read(most + 1)


def refusal(base: Tree, candidate: Tree, store: BlobStore) -> str:
    """Reason for which the platform would refuse the patch from `base` to `candidate`; empty where it would not."""
    try:
        check_patch(load_policy(), parse_patch(diff_trees(base, candidate, store)))
    except (PatchError, PolicyViolation) as error:
        return f"{error.code}: {error.message}"
    return ""


def measure(
    *,
    kind: str,
    suite: str,
    preset: str,
    base: str = SHIPPED,
    candidate: str | None = None,
    allow_none: bool = False,
    callbacks: Terminal | None = None,
    device: str = "cpu",
    trees: Mapping[str, str] | None = None,
    reproduction: bytes = b"",
    old: str | None = None,
    paid_log_ppm: int = 0,
    **plan: int,
) -> dict[str, Any]:
    """Judge locally; the sealed evidence. `plan` may hold `looks` or `confirmation_pairs` for something quicker.

    `old` is the tree before base, for a confirmation, and `paid_log_ppm` what base is said to have gained over it.
    With `trees` (side to hash) other trees than these are refused: TreeError. A bug's kinds need the `reproduction`,
    and have another suite and preset. Raises NotAReproduction.
    """
    text = read_reproduction(reproduction) if kind in BUG_KINDS else ""
    if kind in BUG_KINDS:
        suite, preset = BUG.name, next(iter(BUG.presets))
    with tempfile.TemporaryDirectory(prefix="gainshare-bench-") as folder:
        Path(folder).chmod(0o755)  # as root each sample runs under another uid
        store = BlobStore(Path(folder) / "blobs")
        base_tree = load_tree(base, shipped_tree(store), store)
        candidate_tree = (
            base_tree if kind in OF_ONE_TREE or candidate is None else load_tree(candidate, base_tree, store)
        )
        measured = [base_tree, candidate_tree]
        if old is not None:
            measured.append(load_tree(old, base_tree, store))
        callbacks = callbacks or Terminal()
        if candidate_tree is not base_tree and (why := refusal(base_tree, candidate_tree, store)):
            callbacks.on_log(f"note: as a submission this would be refused. {why}")
        if trees is not None:
            _require(trees, {"base": base_tree, "candidate": candidate_tree})
        job = Job(
            "local",
            cast(JobKind, kind),
            suite,
            preset,
            base_tree.hash,
            candidate_tree.hash,
            device,
            **plan,  # type: ignore[arg-type]  # whole numbers
            reproduction=text,
            old_tree=measured[2].hash if old is not None else "",
            old_paid_log_ppm=paid_log_ppm if old is not None else 0,
        )
        suite_of(job)  # an unknown one is refused before anything is waited for
        options = JudgeOptions(level=best_level(allow_none=allow_none))
        with device_lock(device, waiting=lambda: _told_of_the_wait(callbacks)):
            with tree_folders(measured, store, Path(folder) / "trees") as tree_dirs:
                return judge(
                    job, tree_dirs=tree_dirs, key=generate_key(), callbacks=callbacks, options=options
                )


def _require(wanted: Mapping[str, str], given: Mapping[str, Tree]) -> None:
    for side, tree in given.items():
        if tree.hash != wanted[side]:
            raise TreeError(
                "other_tree", f"the {side} tree is {tree.hash[:12]}, expected is {wanted[side][:12]}"
            )
        if missing := missing_modules(entry.path for entry in tree.entries):
            raise TreeError(
                "old_layout",
                f"the {side} tree has an older layout: it has no {', '.join(missing)}, which this version's judge "
                "imports. Check the file without --rerun, or measure it with the version that made it",
            )


def profile(options: argparse.Namespace) -> str:
    """Profile both trees into the folder that was named; what to print. Raises ProfileFailed and as `measure` does."""
    suite = get_suite(options.suite, options.preset)
    level = best_level(allow_none=options.allow_none)
    options.profile.mkdir(parents=True, exist_ok=True)
    said = []
    with tempfile.TemporaryDirectory(prefix="gainshare-bench-") as folder:
        Path(folder).chmod(0o755)
        store = BlobStore(Path(folder) / "blobs")
        base = load_tree(options.base, shipped_tree(store), store)
        trees = {"base": base}
        if options.candidate is not None:
            trees["candidate"] = load_tree(options.candidate, base, store)
        with tree_folders(trees.values(), store, Path(folder) / "trees") as folders:
            for side, tree in trees.items():
                build_tree(side, folders[tree.hash], level=level, slot=0)
                found = profile_tree(suite, folders[tree.hash], level=level, device=options.device)
                trace = options.profile / f"{side}.trace.json"
                trace.write_bytes(found.trace)
                said.append(f"{side}: Chrome trace in {trace} (open it in ui.perfetto.dev)\n{found.table}")
    return "\n".join(said)


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 when something was measured, whatever the verdict; 2 when the arguments or this machine do not allow it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if contradiction := _contradiction(options):
        parser.error(contradiction)
    try:
        if options.out is not None:
            check_output(options.out)
        if options.profile is not None:
            print(profile(options))
            return 0
        sealed = measure(
            kind=options.kind,
            suite=options.suite,
            preset=options.preset,
            base=options.base,
            candidate=options.candidate,
            allow_none=options.allow_none,
            device=options.device,
            looks=options.looks,
            old=options.old,
            paid_log_ppm=options.paid_log_ppm,
            reproduction=b""
            if options.reproduction is None
            else read_at_most(options.reproduction, MAX_REPRODUCTION_BYTES),
        )
    except SideFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    except REFUSALS as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps(sealed) if options.json else summary(sealed["document"]))
    return 0 if options.out is None or write_evidence(sealed, options.out, "bench") else 2


def write_evidence(sealed: dict[str, Any], path: Path, command: str) -> bool:
    """Write a document; False where that failed, and then `command` prints why and the document is on standard output only."""
    try:
        path.write_text(json.dumps(sealed, indent=1) + "\n")
    except OSError as error:
        print(f"{command}: the evidence could not be written: {error}", file=sys.stderr)
        return False
    return True


def _told_of_the_wait(callbacks: Callbacks) -> AbstractContextManager[None]:
    callbacks.on_log("waiting for another measurement to end")
    return nullcontext()


def _contradiction(options: argparse.Namespace) -> str:
    """Message about arguments that would be ignored; empty where there are none."""
    kind, is_for_a_bug = options.kind, options.kind in BUG_KINDS
    if options.profile is not None:
        return "--profile judges nothing: leave out --out and --json" if options.out or options.json else ""
    if kind in OF_ONE_TREE and options.candidate is not None:
        return f"--kind {kind} is about one tree: name it with --base, and no --candidate"
    if kind not in OF_ONE_TREE and options.candidate is None:
        return f"--kind {kind} needs a --candidate (--kind aa measures base against itself)"
    if is_for_a_bug and options.reproduction is None:
        return f"--kind {kind} needs --reproduction FILE"
    if not is_for_a_bug and options.reproduction is not None:
        return f"--kind {kind} tries no reproduction: leave out --reproduction"
    if (options.old is not None) != (options.paid_log_ppm > 0):
        return "--old FOLDER and --paid-log-ppm N belong together: the tree before base, and what base is said to have gained"
    if options.old is not None and kind != "confirmation":
        return f"--kind {kind} has no old tree: leave out --old"
    if kind not in ("gate", "aa") and options.looks != len(LOOKS):
        return f"--kind {kind} has no looks: leave out --looks"
    return ""


def summary(document: dict[str, Any]) -> str:
    """The verdict for people."""
    verdict = document["verdict"]
    lines = [f"{verdict['kind']}: {verdict['reason']}"]
    if verdict["log_ppm_estimate"] is not None:
        lines.append(f"estimate {signed_percent(verdict['log_ppm_estimate'])} over {verdict['pairs']} pairs")
    times = ", ".join(f"{name} {ns / 1e9:.1f} s" for name, ns in document["phases_ns"].items())
    sandbox = document["sandbox"]
    counted = ", ".join(f"{name} by {way}" for name, way in sandbox["counted_by"].items())
    lines.append(f"time: {times}; sandbox {sandbox['level']} ({counted}); not award-eligible")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.bench", description=__doc__)
    timed = [name for name in SUITES if name != BUG.name]
    parser.add_argument(
        "--suite",
        default="moe_forward",
        help=f"what is measured: one of {', '.join(timed)}; the kinds of a bug use suite bug",
    )
    parser.add_argument("--preset", default="demo", help="size of the suite: demo or standard")
    parser.add_argument(
        "--base", default=SHIPPED, help="folder or diff of the base tree; the shipped stack by default"
    )
    parser.add_argument("--candidate", help="folder or diff (against the base tree) of the candidate")
    parser.add_argument(
        "--old",
        help="folder or diff (against the base tree) of the tree before base, timed in a confirmation as well",
    )
    parser.add_argument(
        "--paid-log-ppm",
        type=int,
        default=0,
        metavar="N",
        help="what base is said to have gained over it, in millionths of a nat",
    )
    parser.add_argument("--kind", default="gate", choices=("gate", "confirmation", "guard", "aa", *BUG_KINDS))
    parser.add_argument(
        "--reproduction", type=Path, metavar="FILE", help="the bug's reproduction, for the kinds that try one"
    )
    parser.add_argument("--device", default=CPU, choices=DEVICES, help="where the stack computes")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="instead of judging: torch's profile of both trees, a table each and a Chrome trace in this folder",
    )
    parser.add_argument(
        "--looks",
        type=int,
        default=len(LOOKS),
        choices=range(1, len(LOOKS) + 1),
        help="fewer looks take less time",
    )
    parser.add_argument("--out", type=Path, help="write the evidence to this file")
    parser.add_argument("--json", action="store_true", help="print the evidence instead of a summary")
    parser.add_argument(
        "--allow-none",
        action="store_true",
        help="run without a sandbox where none works: for your own code only",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
