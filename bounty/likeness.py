"""How much of what two patches change is the same, by the lines of the normal form. Pure, apart from reading blobs.

A changed line is one that the candidate's normal form of a file has and the base's lacks, or the other way round, each
time that it occurs. Locals are numbered separately in each line, so that one more local changes no other line. Notes
(`.md`) have no lines.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath

from benchmarks.patch.trees import BlobStore, Tree
from bounty.code_digest import CPP, MAX_BYTES, NOTES
from bounty.normal_form import normal_cpp, normal_python

NEARLY_EQUAL_PERCENT = 80
_NUMBERED = re.compile(r"\bv\d+\b")


def changed_lines(base: Tree, candidate: Tree, store: BlobStore) -> frozenset[str]:
    """Digests of the lines that the candidate adds or removes, with their files. Raises TreeError for a missing blob."""
    before = {entry.path: entry.blob for entry in base.entries}
    after = {entry.path: entry.blob for entry in candidate.entries}
    changed = sorted(
        path
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path) and PurePosixPath(path).suffix not in NOTES
    )
    return frozenset(
        digest
        for path in changed
        for digest in _of_file(path, *(_lines(path, blob.get(path), store) for blob in (before, after)))
    )


def percent_equal(one: frozenset[str], other: frozenset[str]) -> int:
    """The share of the smaller change that is in both, in whole per cent; 0 where either is empty."""
    smaller = min(len(one), len(other))
    return 100 * len(one & other) // smaller if smaller else 0


def _of_file(path: str, before: Counter[str], after: Counter[str]) -> Iterator[str]:
    for sign, lines in (("+", after - before), ("-", before - after)):
        for line, times in lines.items():
            for number in range(times):
                text = "\0".join((path, sign, line, str(number)))
                yield hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _lines(path: str, blob: str | None, store: BlobStore) -> Counter[str]:
    return Counter(() if blob is None else _of_source(store.get(blob), PurePosixPath(path).suffix))


@lru_cache(maxsize=256)
def _of_source(source: bytes, suffix: str) -> tuple[str, ...]:
    """The lines of a file's normal form, or of its text where it has none; one digest for what is no text."""
    try:
        text = source.decode()
    except UnicodeDecodeError:
        return (hashlib.sha256(source).hexdigest(),)
    try:
        if len(source) <= MAX_BYTES and (suffix == ".py" or suffix in CPP):
            text = normal_python(text) if suffix == ".py" else normal_cpp(text)
    except ValueError:
        pass  # no Python: its own lines
    return tuple(_renumbered(line.strip()) for line in text.splitlines() if line.strip())


def _renumbered(line: str) -> str:
    numbers: dict[str, str] = {}
    return _NUMBERED.sub(lambda name: numbers.setdefault(name.group(), f"v{len(numbers)}"), line)
