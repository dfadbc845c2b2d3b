"""Tries a reproduction of a bug on trees: observes each in one sandbox, checks what was seen in another.

A reproduction is one Python file with two functions. `observe() -> dict` imports `model`, runs the stack and returns
plain JSON data; `check(seen)` raises AssertionError where these show the bug. They never share a process: what observed
a tree is gone before the check starts, and the check's sandbox has no tree. What passes between the two is JSON that is
read here, strictly. So the code under test can lie about what was seen, but cannot touch the outcome.

What the trials mean is concluded in `benchmarks.evidence.bugs`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.seeds import Seeds
from benchmarks.patch.trees import sha256_hex
from benchmarks.sandbox import Completed, Limits, Mount, SandboxLevel, python_runtime, run
from benchmarks.sandbox.devices import CPU, device_mounts
from benchmarks.sandbox.readable import readable

MAX_SEEN_BYTES = 256 * 1024
OBSERVE_S = 60.0
CHECK_S = 30.0
MEMORY_BYTES = 2 << 30
PIDS = 64
LOG_BYTES = 16 * 1024
MAX_DETAIL_CHARACTERS = 2_000
SLOTS = {"base": 0, "candidate": 1, "none": 2}  # of the sandboxes' own user ids

_PROGRAM = "/harness/bug_inside.py"
_REFUSED, _RAISED, _BROKEN, _MALFORMED = 10, 11, 12, 13  # what bug_inside.py ends with


class Trials:
    """`rows` grows while it runs, in the evidence's own form. Each step is one fresh sandbox. Raises Cancelled."""

    def __init__(
        self,
        reproduction: str,
        trees: Mapping[str, Path],
        *,
        level: SandboxLevel,
        cores: tuple[int, ...],
        seeds: Seeds,
        device: str = CPU,
        on_log: Callable[[str], None],
        cancellation: Cancellation | None = None,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._reproduction, self._trees = reproduction, dict(trees)
        self._level, self._cores, self._seeds, self._device = level, cores, seeds, device
        self._on_log, self._cancellation = on_log, cancellation

    def read(self) -> None:
        """Check without a tree that the file can be a reproduction."""
        done = self._run("read", "none", 0, {"source": self._reproduction})
        reason = _failure(done) or (_reason(done) if done.returncode else "")
        self._add("read", "none", 0, "broken" if reason else "readable", reason)

    def attempt(self, side: str, number: int) -> None:
        """Observe one tree, then check what was seen."""
        done = self._run("observe", side, number, {"source": self._reproduction})
        outcome, detail, seen = _observed(done)
        self._add("observe", side, number, outcome, detail)
        if outcome != "answered":
            return
        done = self._run("check", side, number, {"source": self._reproduction, "seen": seen})
        outcome = {0: "holds", _REFUSED: "refused"}.get(done.returncode, "broken")
        detail = _failure(done)
        self._add(
            "check",
            side,
            number,
            "broken" if detail else outcome,
            detail or (_reason(done) if outcome != "holds" else ""),
        )

    def _run(self, step: str, side: str, number: int, asked: dict[str, Any]) -> Completed:
        is_observing = step == "observe"
        runtime = python_runtime(threads=1)
        mounts = [*runtime.mounts, Mount(Path(__file__).with_name("bug_inside.py"), _PROGRAM)]
        if is_observing:
            mounts += [*device_mounts(self._device), Mount(self._trees[side] / "model", "/tree/model")]
        # Another order of sets and of hashed keys each time: what depends on it shows as flaky.
        hash_seed = self._seeds.order("trial", step, side, number).randrange(1, 1 << 32)
        wall_s = OBSERVE_S if is_observing else CHECK_S
        done = run(
            [*runtime.argv, _PROGRAM, step],
            level=self._level,
            mounts=mounts,
            limits=Limits(
                memory_bytes=MEMORY_BYTES, pids=PIDS, wall_s=wall_s, cores=self._cores, log_bytes=LOG_BYTES
            ),
            env={**runtime.env, "PYTHONHASHSEED": str(hash_seed)},
            slot=SLOTS[side if is_observing else "none"],
            input=json.dumps(asked).encode(),
            timeout_s=wall_s,
            output_limit_bytes=MAX_SEEN_BYTES,
            cancellation=self._cancellation,
        )
        if said := done.stderr_tail.strip():
            label = f"{step}, {side}, attempt {number + 1}" if step != "read" else step
            self._on_log("".join(f"[{label}] {line}\n" for line in said.splitlines()))
        return done

    def _add(self, step: str, side: str, number: int, outcome: str, detail: str) -> None:
        self.rows.append(
            {
                "step": step,
                "side": side,
                "attempt": number,
                "outcome": outcome,
                "detail": readable(detail[:MAX_DETAIL_CHARACTERS], most=MAX_DETAIL_CHARACTERS),
            }
        )


def _observed(done: Completed) -> tuple[str, str, dict[str, Any]]:
    """Outcome, detail, and what was seen."""
    if done.timed_out:
        return "timeout", f"not observed within {OBSERVE_S:.0f} s", {}
    if done.limit == "output":
        return "malformed", f"observe returned more than {MAX_SEEN_BYTES >> 10} KiB", {}
    if done.resource_limited:
        return "resource_limit", f"the limit of {done.limit} was reached", {}
    if done.returncode == 0 and not done.stdout:
        return "crashed", "the process ended before it had answered", {}
    if done.returncode == 0:
        try:
            seen = parse_seen(done.stdout)
        except ValueError as error:
            return "malformed", str(error), {}
        return "answered", f"{len(done.stdout)} bytes, sha256 {sha256_hex(done.stdout)}", seen
    if done.returncode == _MALFORMED:
        return "malformed", _reason(done), {}
    if done.returncode in (
        _RAISED,
        _BROKEN,
    ):  # broken: it could be read without a tree, so this is the tree's
        return "raised", _reason(done), {}
    return "crashed", f"the process ended with status {done.returncode}: {_reason(done)}", {}


def parse_seen(data: bytes) -> dict[str, Any]:
    """Parse what `observe` wrote: one JSON object, no key twice, no non-finite number. Raises ValueError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key is repeated in one object")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        seen = json.loads(data.decode(), object_pairs_hook=once, parse_constant=refuse)
        json.dumps(seen)  # as it is sent on: writing nests deeper than reading
    except UnicodeDecodeError:
        raise ValueError("what observe returned is no text") from None
    except RecursionError:
        raise ValueError("what observe returned is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"what observe returned is no plain JSON data: {error}") from None
    if not isinstance(seen, dict):
        raise ValueError("observe returns a dict")
    return seen


def _failure(done: Completed) -> str:
    """Reason for which a step without a tree was ended from outside; empty where it ended by itself."""
    if done.timed_out:
        return f"not done within {CHECK_S:.0f} s"
    if done.resource_limited:
        return f"the limit of {done.limit} was reached"
    return ""


def _reason(done: Completed) -> str:
    lines = done.stderr_tail.strip().splitlines()
    return lines[-1] if lines else "no reason given"
