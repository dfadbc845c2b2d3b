"""Builds a tree for measuring, in the same class of sandbox that measures it, without network.

Today every source is compiled to bytecode in memory, which finds what does not parse before any pair is started. Base
and candidate go through the same steps. Nothing that a build makes is shared between trees.
"""

from pathlib import Path

from benchmarks.pairs.side import SideFailed
from benchmarks.sandbox import Limits, Mount, SandboxLevel, python_runtime, run

TIMEOUT_S = 60.0
OUTPUT_BYTES = 1 << 20

COMPILE = """
import pathlib, sys
for path in sorted(pathlib.Path("/tree").rglob("*.py")):
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        sys.exit(f"{path}: {type(error).__name__}: {error}")
"""


def build_tree(name: str, tree: Path, *, level: SandboxLevel, slot: int) -> None:
    """Raises SideFailed: build_failed, timeout or resource_limit, at stage "build"."""
    runtime = python_runtime()
    done = run(
        [*runtime.argv, "-c", COMPILE],
        level=level,
        mounts=[*runtime.mounts, Mount(tree / "model", "/tree/model")],
        limits=Limits(wall_s=TIMEOUT_S),
        env=runtime.env,
        slot=slot,
        timeout_s=TIMEOUT_S,
        output_limit_bytes=OUTPUT_BYTES,
    )
    if done.timed_out:
        raise SideFailed("timeout", name, "build", f"not built within {TIMEOUT_S:.0f} s")
    if done.resource_limited:
        raise SideFailed("resource_limit", name, "build", f"the limit of {done.limit} was reached")
    if done.returncode != 0:
        raise SideFailed("build_failed", name, "build", done.stderr_tail.strip()[-2000:] or "no reason given")
