"""A sample cannot tell which seat of a pair it has: all that it sees is the same on both, but for what is random."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.pairs.hostile_suite import LARGE, SMALL, hostile_suite, run_pairs, script_tree
from tests.benchmarks.sandbox.sandbox_levels import LEVELS, level_or_skip

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

LAST_CALL = 3  # the warm-up and two turns
# Fields of /proc/self/status that are about the process's place; the others are its own times and sizes.
PLACE = (
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "NSpgid",
    "NSsid",
    "Threads",
    "Cap",
    "Seccomp",
    "NoNew",
    "Cpus",
    "Mems",
)
COVERED = ("stat", "uptime", "loadavg", "schedstat", "interrupts", "vmstat", "diskstats")
SEATS = ("base", "candidate")
SOME_USER = "77777"  # for a user id, in texts and for whole numbers: an ordinary user's is a common one


def dumps(tmp_path: Path, level: str, numbers: int) -> dict[str, dict[str, Any]]:
    """What the sample of each seat saw. Both have the same code, each in a tree of its own, as base and candidate have."""
    steps: dict[str, Any] = {"load": [["watch_frames"]], "call": [["tell_when", LAST_CALL]]}
    trees = {
        seat: script_tree(tmp_path / (digit * 64), **steps) for seat, digit in zip(SEATS, "ab", strict=True)
    }
    suite = hostile_suite(numbers=numbers, call_ms=20_000)
    runner, log = run_pairs(trees, suite, level=level_or_skip(level))
    assert not runner.events, runner.events
    return {seat: unpacked(log, seat) for seat in SEATS}  # fmt: skip


def unpacked(log: str, seat: str) -> dict[str, Any]:
    pieces = re.findall(rf"^\[{seat}, pair 0\] SEEN (.*)$", log, flags=re.MULTILINE)
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode("".join(pieces))))
    return found


def normal(seen: dict[str, Any]) -> dict[str, Any]:
    """Without what is random in each process: its user id, numbers of mounts and pipes, the name of its copy of the tree."""
    uid = re.search(r"^Uid:\t(\d+)", seen["status"], flags=re.MULTILINE)
    assert uid is not None
    plain = json.loads(re.sub(rf"(?<!\d){uid[1]}(?!\d)", SOME_USER, json.dumps(seen)))
    plain["status"] = [line for line in plain["status"].splitlines() if line.startswith(PLACE)]
    plain["mountinfo"] = [_mount(line) for line in plain["mountinfo"].splitlines()]
    plain["descriptors"] = sorted(re.sub(r"\[\d+\]", "", target) for target in plain["descriptors"].values())
    # Descriptors of the judge that bubblewrap was given: they follow the order of starting, which is random.
    plain["commands"] = {
        pid: re.sub(r'(--seccomp\0|--args\0|"socket": )\d+', r"\1N", words)
        for pid, words in plain["commands"].items()
    }
    return plain


def _mount(line: str) -> str:
    fields = line.split(" ")[3:]  # without numbers of the mount, its parent and its device
    return re.sub(r"/(side-|gainshare-container-)[^/ ]+|(master|shared):\d+", r"/\1*", " ".join(fields))


@pytest.mark.parametrize("numbers", [SMALL, LARGE], ids=["pipe", "sealed memory"])
@pytest.mark.parametrize("level", LEVELS)
def test_both_seats_look_the_same(level: str, numbers: int, tmp_path: Path) -> None:
    base, candidate = (normal(seen) for seen in dumps(tmp_path, level, numbers).values())
    assert base.keys() == candidate.keys()
    for name in base:
        assert base[name] == candidate[name], name


def test_no_seat_sees_the_name_of_its_tree_or_what_the_processors_do(tmp_path: Path) -> None:
    for seen in dumps(tmp_path, "best", SMALL).values():
        assert not re.search(r"[ab]{64}", json.dumps(seen))
        assert [seen[name] for name in COVERED if seen[name] and not seen[name].startswith("errno")] == []
        assert seen["idle"] == []


def test_both_seats_are_sent_the_same_frames(tmp_path: Path) -> None:
    frames = {seat: seen["frames"] for seat, seen in dumps(tmp_path, "best", SMALL).items()}
    assert frames["base"] == frames["candidate"]
    kinds = [kind for kind, *_ in frames["base"]]
    assert kinds.count("ECHO") == 3 and kinds.count("CALL") == LAST_CALL
    assert [sequence for _, sequence, *_ in frames["base"]] == list(range(2, 2 + len(kinds)))
