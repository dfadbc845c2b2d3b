"""Positive controls: how much a patch wins in a naive harness. What is measured here decides no verdict and no award.

The harness is a whole program with the mistakes of its kind (`benchmarks/redteam/harnesses/`); it runs with the patched
tree inside one sandbox with generous rights, so that nothing reaches the machine. Its own figures are believed, which
is the point.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sandbox import Limits, Mount, SandboxLevel, best_level, python_runtime, run

HARNESSES = Path(__file__).with_name("harnesses")
PARTS = frozenset({"__init__", "layer", "worker", "scoring", "applying", "trials"})
MINIMUM_RATIO = 2.0
TIMEOUT_S = 300.0
SLOT = 2  # samples of a judge use 0 and 1
LIMITS = Limits(memory_bytes=4 << 30, pids=256, scratch_bytes=512 << 20, wall_s=TIMEOUT_S)
NOTE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Control:
    """Result of the naive harness: base's time over the candidate's. 0 where it refused or did not end."""

    harness: str
    ratio: float
    note: str

    @property
    def is_won(self) -> bool:
        return self.ratio >= MINIMUM_RATIO


def harness_names() -> list[str]:
    """The harnesses there are."""
    return sorted(path.stem for path in HARNESSES.glob("*.py") if path.stem not in PARTS)


def run_control(
    harness: str,
    mounts: dict[str, Path],
    *,
    arguments: tuple[str, ...] = (),
    level: SandboxLevel | None = None,
) -> Control:
    """Run `harness` with `mounts` (path inside -> folder or file here), usually `/base/model` and `/candidate/model`.

    Raises ValueError for an unknown harness, SandboxError where nothing can be started.
    """
    if harness not in harness_names():
        raise ValueError(f"there is no naive harness {harness!r}; there are {', '.join(harness_names())}")
    runtime = python_runtime(path=["/harness"], threads=1)
    done = run(
        [*runtime.argv, f"/harness/{harness}.py", *arguments],
        level=level or best_level(),
        mounts=[
            *runtime.mounts,
            Mount(HARNESSES, "/harness"),
            *(Mount(source, target) for target, source in mounts.items()),
        ],
        limits=LIMITS,
        env=runtime.env,
        slot=SLOT,
        timeout_s=TIMEOUT_S,
        output_limit_bytes=1 << 20,
    )
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
        ratio, note = float(said["ratio"]), str(said["note"])
    except (IndexError, ValueError, TypeError, KeyError):
        words = done.stderr_tail.strip()[-NOTE_CHARACTERS:]
        return Control(harness, 0.0, f"no result, status {done.returncode}, limit {done.limit}: {words}")
    return Control(harness, ratio if math.isfinite(ratio) else 0.0, note[:NOTE_CHARACTERS])
