"""`python -m benchmarks.redteam`: judge the red team's patches, or look after their files. See the package."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import command_line, ends_plainly
from benchmarks.runner.device_lock import device_lock
from benchmarks.patch.patches import PatchError
from benchmarks.redteam.attempt import Attempt, attempt
from benchmarks.redteam.judging import RUNS_AFTER_GATE, Bench
from benchmarks.redteam.patch_file import PatchFileError, RedTeamPatch, read_all
from benchmarks.redteam.recut import RecutFailed, recut
from benchmarks.redteam.rot import stale
from benchmarks.redteam.table import rows_of
from benchmarks.report import Report, say
from benchmarks.sandbox import SandboxError
from benchmarks.statistics.gate import LOOKS
from benchmarks.suites import UnknownSuite
from model.command_errors import CommandParser

COMMAND = "python -m benchmarks.redteam"
QUICK_LOOKS = 1  # 6 pairs: enough to refuse what is wrong, and to see a gain of 15 %


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 when everything asked for was done, whatever was found; `check` 1 when a patch no longer applies; 2 on errors."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["check"]:
            return _check(words[1:])
        if words[:1] == ["recut"]:
            return _recut(words[1:])
        return _judge(words)
    except (PatchFileError, PatchError, RecutFailed, UnknownSuite, SandboxError, OSError) as error:
        say(f"redteam: {error}")
        return 2


def _judge(words: list[str]) -> int:
    parser = CommandParser(prog=COMMAND, description=__doc__, epilog="Also: check; recut NAME.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="patches by name; all when none is named")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help="one look of 6 pairs: finds gains of 15 %% and more"
    )
    parser.add_argument(
        "--gate", action="store_true", help="stop at the gate, and count what passes it as awarded"
    )
    parser.add_argument("--log", action="store_true", help="the judge's log to stderr")
    chosen = parser.parse_args(words)
    patches = _chosen(read_all(), chosen.names, parser)
    attempts = _attempts(patches, quick=chosen.quick, gate_only=chosen.gate, log=chosen.log)
    Report.here(command_line(COMMAND, words), rows_of(attempts)).show(as_json=chosen.json)
    return 0


def _chosen(
    patches: list[RedTeamPatch], names: Sequence[str], parser: argparse.ArgumentParser
) -> list[RedTeamPatch]:
    if unknown := set(names) - {patch.name for patch in patches}:
        parser.error(f"there is no patch {', '.join(sorted(unknown))}")
    return [patch for patch in patches if not names or patch.name in names]


def _attempts(patches: Sequence[RedTeamPatch], *, quick: bool, gate_only: bool, log: bool) -> list[Attempt]:
    attempts = []
    with tempfile.TemporaryDirectory(prefix="gainshare-redteam-") as folder, device_lock("cpu"):
        Path(folder).chmod(0o755)  # as root each sample runs under another uid
        bench = Bench(
            Path(folder),
            looks=QUICK_LOOKS if quick else len(LOOKS),
            runs_after_gate=() if gate_only else RUNS_AFTER_GATE,
        )
        for number, patch in enumerate(patches, 1):
            done = attempt(bench, patch, say=_write if log else _nothing)
            won = f", control {done.control.ratio:.3g}x" if done.control else ""
            mark = "" if done.is_as_expected else "  <- not as expected"
            say(f"{number}/{len(patches)} {patch.path.name}: {done.outcome.verdict}{won}{mark}")
            attempts.append(done)
    return attempts


def _check(words: list[str]) -> int:
    argparse.ArgumentParser(prog=f"{COMMAND} check", description=stale.__doc__).parse_args(words)
    found = stale()
    for problem in found:
        print(f"{problem.path}: {problem.reason}")
    if found:
        print(f"{len(found)} patches no longer apply; {COMMAND} recut NAME cuts one again")
    return 1 if found else 0


def _recut(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{COMMAND} recut", description=recut.__doc__)
    parser.add_argument("name", help="a patch's name, or a path to a diff (as examples/patches/slower.diff)")
    parser.add_argument("--against", type=Path, help="folder with the `model/` to cut it against")
    parser.add_argument("--folder", type=Path, help="where to work; conflicts stay there to be resolved")
    parser.add_argument("--resume", action="store_true", help="cut it from the resolved files in --folder")
    chosen = parser.parse_args(words)
    path = recut(chosen.name, against=chosen.against, folder=chosen.folder, resume=chosen.resume)
    print(f"{path} was cut again")
    return 0


def _write(text: str) -> None:
    sys.stderr.write(text)


def _nothing(text: str) -> None:
    del text


if __name__ == "__main__":
    sys.exit(main())
