"""Profile of a tree: a suite's calls under torch's profiler, in the sandbox in which the judge measures.

Gives a table for people and a trace for chrome://tracing or ui.perfetto.dev. Nothing here is evidence: a profiler slows
down what it looks at, small operators most.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import HARNESS, buffers, harness_mounts
from benchmarks.pairs.wire.protocol import Kind, encode_tensors
from benchmarks.sandbox import Limits, Mount, SandboxLevel, python_runtime, run
from benchmarks.sandbox.devices import device_mounts
from benchmarks.sandbox.readable import readable
from benchmarks.suites import Suite
from benchmarks.suites.base import WARM_UP

PROGRAM = "profile_sample.py"
CALLS = 5
TIMEOUT_S = 180.0
MAX_OUTPUT_BYTES = 256 << 20
MAX_TABLE_CHARACTERS = 64 * 1024
EXTRA_MEMORY_BYTES = 1 << 30  # the profiler keeps every event


class ProfileFailed(RuntimeError):
    """The tree could not be profiled; the message says why."""


@dataclass(frozen=True)
class Profile:
    """`table` is torch's, by operator; `trace` is Chrome's JSON."""

    table: str
    trace: bytes


def profile_tree(suite: Suite, tree: Path, *, level: SandboxLevel, device: str, slot: int = 0) -> Profile:
    """Profile `CALLS` calls of the suite's first case on the tree below `tree`. Raises ProfileFailed, SandboxError."""
    if suite.trial is not None:
        raise ProfileFailed(
            f"suite {suite.name} holds a trial instead of timed calls: profile one that times calls, such as train_step"
        )
    runtime = python_runtime(threads=1)
    done = run(
        [*runtime.argv, f"{HARNESS}/{PROGRAM}", device],
        level=level,
        mounts=[
            *runtime.mounts,
            *harness_mounts(suite),
            *device_mounts(device),
            Mount(Path(__file__).parents[1] / "pairs" / PROGRAM, f"{HARNESS}/{PROGRAM}"),
            Mount(tree / "model", "/tree/model"),
        ],
        limits=Limits(memory_bytes=suite.memory_bytes + EXTRA_MEMORY_BYTES, wall_s=TIMEOUT_S),
        env=runtime.env,
        slot=slot,
        input=_frames(suite),
        timeout_s=TIMEOUT_S,
        output_limit_bytes=MAX_OUTPUT_BYTES,
    )
    if done.returncode != 0 or done.limit is not None:
        why = f"the limit of {done.limit} was reached" if done.limit else f"status {done.returncode}"
        raise ProfileFailed(f"the profiled process failed ({why}): {done.stderr_tail.strip()[-2000:]}")
    return _parsed(done.stdout)


def _parsed(output: bytes) -> Profile:
    """Parse what the process wrote. The submitted code made it, so it is only for people to read."""
    if len(output) < 8 or (size := struct.unpack_from("<Q", output)[0]) > len(output) - 8:
        raise ProfileFailed("the profiled process wrote something else than a profile")
    table = readable(output[8 : 8 + size].decode(errors="replace"), most=MAX_TABLE_CHARACTERS)
    return Profile(table, output[8 + size :])


def _frames(suite: Suite) -> bytes:
    """One LOAD, a warm-up and the calls, all inputs fresh; untimed calls that belong to a turn are among them."""
    seeds = Seeds.fresh()[1]
    problem = suite.problem(suite.cases[0].draw(seeds.numbers("shape")), seeds.numbers("problem"))
    parts = encode_tensors(Kind.LOAD, 1, buffers(problem.weights), config=problem.config)
    for turn in range(WARM_UP, CALLS):
        before = problem.before(seeds.numbers("before", turn), turn)
        inputs = problem.draw_inputs(seeds.numbers("inputs", turn), turn)
        for tensors in (before, inputs):
            for exchange in () if tensors is None else problem.exchanges(tensors):
                parts += encode_tensors(Kind.CALL, 1, buffers(exchange.inputs))
    return b"".join(bytes(part) for part in parts)
