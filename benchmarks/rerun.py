"""`python -m benchmarks.rerun EVIDENCE --base DIR --candidate DIR`: measures again what an evidence file says.

The same kind of run, suite and preset, with fresh secrets, on this machine. The trees must have the hashes that the
evidence names. Times on another machine differ, and so may the size of an effect: what is compared is the verdict,
and for a gain whether at least half of the stated bound is found again.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import measure, write_evidence
from benchmarks.commands import check_output, ends_plainly
from benchmarks.evidence.canonical import NotCanonical, parse
from benchmarks.evidence.schema import EvidenceError, validate
from benchmarks.patch.patches import PatchError
from benchmarks.judging.reproduction import NotAReproduction
from benchmarks.sandbox import SandboxError
from benchmarks.sandbox.readable import readable
from benchmarks.statistics.units import signed_percent
from benchmarks.suites import UnknownSuite
from benchmarks.patch.trees import TreeError, sha256_hex
from benchmarks.judging.verdicts import VerdictKind, bound_side
from model.command_errors import CommandParser


@dataclass(frozen=True)
class Rerun:
    """`agrees` is whether this machine comes to the same conclusion of a run of `run_kind`; effects are log_ppm."""

    run_kind: str
    agrees: bool
    stated_kind: str
    stated_estimate: int | None
    stated_bound: int | None
    kind: str
    estimate: int | None
    bound: int | None
    reason: str


def read_document(path: Path) -> dict[str, Any]:
    """The document in an evidence file. Raises OSError, NotCanonical or EvidenceError; who signed it is not asked."""
    sealed = parse(path.read_bytes())
    if not isinstance(sealed, dict) or not isinstance(sealed.get("document"), dict):
        raise EvidenceError("it holds no sealed document")
    validate(sealed["document"])
    document: dict[str, Any] = sealed["document"]
    return document


def compare(run_kind: str, stated: dict[str, Any], found: dict[str, Any]) -> Rerun:
    """Two verdicts of runs of this kind, as they are in documents."""
    agrees = stated["kind"] == found["kind"]
    if agrees and stated["kind"] == VerdictKind.GAIN and stated["log_ppm_bound"] is not None:
        agrees = 2 * (found["log_ppm_estimate"] or 0) >= stated["log_ppm_bound"]
    return Rerun(
        run_kind,
        agrees,
        stated["kind"],
        stated["log_ppm_estimate"],
        stated["log_ppm_bound"],
        found["kind"],
        found["log_ppm_estimate"],
        found["log_ppm_bound"],
        found["reason"],
    )


def rerun(
    document: dict[str, Any], *, base: str, candidate: str, reproduction: bytes = b""
) -> tuple[Rerun, dict[str, Any]]:
    """The comparison and the new evidence. Raises TreeError where a tree is not the one that was measured, and
    NotAReproduction where the reproduction is not.
    """
    if document["suite"].get("reproduction", sha256_hex(reproduction)) != sha256_hex(reproduction):
        raise NotAReproduction(
            "this is not the reproduction that was tried: name its file with --reproduction"
        )
    sealed = measure(
        kind=document["run"]["kind"],
        suite=document["suite"]["name"],
        preset=document["suite"]["preset"],
        base=base,
        candidate=candidate,
        trees=document["trees"],
        reproduction=reproduction,
    )
    return compare(document["run"]["kind"], document["verdict"], sealed["document"]["verdict"]), sealed


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 when the verdicts agree, 1 when they do not, 2 when nothing could be measured."""
    parser = CommandParser(prog="python -m benchmarks.rerun", description=__doc__)
    parser.add_argument("evidence", type=Path, help="an evidence file")
    parser.add_argument("--base", required=True, help="folder or diff of the base tree, or `shipped`")
    parser.add_argument("--candidate", required=True, help="folder or diff (against base) of the candidate")
    parser.add_argument("--reproduction", type=Path, help="the bug's reproduction, where one was tried")
    parser.add_argument("--out", type=Path, help="write the new evidence to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        if options.out is not None:
            check_output(options.out)
        document = read_document(options.evidence)
        text = options.reproduction.read_bytes() if options.reproduction is not None else b""
        found, sealed = rerun(document, base=options.base, candidate=options.candidate, reproduction=text)
    except (NotCanonical, EvidenceError) as error:
        print(f"rerun: {options.evidence} is no evidence file: {error}", file=sys.stderr)
        return 2
    except (TreeError, PatchError, UnknownSuite, SandboxError, NotAReproduction, OSError) as error:
        print(f"rerun: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(found)) if options.json else summary(found))
    if options.out is not None and not write_evidence(sealed, options.out, "rerun"):
        return 2
    return 0 if found.agrees else 1


def summary(found: Rerun) -> str:
    """Text for people."""
    return (
        f"stated:   {found.stated_kind}, {_sizes(found, found.stated_kind, found.stated_estimate, found.stated_bound)}\n"
        f"measured: {found.kind}, {_sizes(found, found.kind, found.estimate, found.bound)}\n"
        f"{readable(found.reason)}\n{'agrees' if found.agrees else 'DOES NOT AGREE'}"
    )


def _sizes(found: Rerun, kind: str, estimate: int | None, bound: int | None) -> str:
    if estimate is None:
        return "no effect stated"
    side = bound_side(run_kind=found.run_kind, verdict=kind)
    stated = "no bound" if bound is None else f"{side} bound {signed_percent(bound)}"
    return f"{signed_percent(estimate)} ({stated})"


if __name__ == "__main__":
    sys.exit(main())
