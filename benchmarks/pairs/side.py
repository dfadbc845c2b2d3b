"""One side of a pair: a fresh sandboxed process that answers calls, frozen whenever it is not asked.

Turns everything that can go wrong with a sample into one SideFailed with a kind that a verdict can be made of. Knows
neither the other side nor statistics nor verdicts.
"""

import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import numpy as np

from benchmarks.pairs import cores as affinity
from benchmarks.pairs.wire.channel import Channel, SampleClosed, SampleRaised, SampleSilent, WrongForm
from benchmarks.pairs.wire.messages import answer_for, message
from benchmarks.pairs.wire.protocol import Kind, ProtocolError, TensorBytes
from benchmarks.sandbox import Limits, Mount, Sample, SandboxLevel, python_runtime, spawn
from benchmarks.sandbox.devices import CPU, device_mounts
from benchmarks.sandbox.log_capture import readable
from benchmarks.suites.base import Array, Problem, Suite, Tensors, TensorSpec

HARNESS = "/harness"
ENDING_S = 5.0  # how long a sample whose pipes closed is waited for, to learn how it ended
MAX_LOG_BYTES = 16 * 1024
MAX_PIDS = 64


class SideFailed(Exception):
    """A sample did not do its part. `kind` is one of the evidence's event kinds; `detail` can be stored and printed."""

    def __init__(self, kind: str, side: str, stage: str, detail: str) -> None:
        detail = readable(detail)  # the words may be the sample's
        super().__init__(f"{side} at {stage}: {detail}")
        self.kind, self.side, self.stage, self.detail = kind, side, stage, detail


@dataclass(frozen=True)
class SideSetup:
    """Settings that both sides of every pair share."""

    suite: Suite
    level: SandboxLevel
    cores: affinity.Cores
    device: str = CPU
    wall_s: float = 600.0


def harness_mounts(suite: Suite) -> list[Mount]:
    """The sample's program, its protocol and the suite's half, each a read-only file outside the tree."""
    here = Path(__file__).parent
    return [
        Mount(here / "sample.py", f"{HARNESS}/sample.py"),
        Mount(here / "wire" / "protocol.py", f"{HARNESS}/protocol.py"),
        Mount(here / "wire" / "sealed.py", f"{HARNESS}/sealed.py"),
        Mount(here.parent / "suites" / "samples" / "tensors.py", f"{HARNESS}/tensors.py"),
        Mount(suite.sample_module, f"{HARNESS}/suite_sample.py"),
        *(Mount(helper, f"{HARNESS}/{helper.name}") for helper in suite.sample_helpers),
    ]


class Side:
    """`name` is what the evidence calls it: base or candidate. Use `close` in a finally."""

    def __init__(self, name: str, tree: Path, suite: Suite, setup: SideSetup, slot: int) -> None:
        self.name = name
        self._limits = suite.time_limits
        self._cores = setup.cores
        runtime = python_runtime(threads=1)
        self._sample: Sample = spawn(
            [*runtime.argv, f"{HARNESS}/sample.py", setup.device],
            level=setup.level,
            mounts=[
                *runtime.mounts,
                *harness_mounts(suite),
                *device_mounts(setup.device),
                Mount(tree / "model", "/tree/model"),
            ],
            limits=Limits(
                memory_bytes=suite.memory_bytes,
                pids=MAX_PIDS,
                wall_s=setup.wall_s,
                cores=setup.cores.all,
                log_bytes=MAX_LOG_BYTES,
            ),
            env=runtime.env,
            slot=slot,
            has_socket=True,
        )
        self._channel = Channel(
            self._sample.stdin.fileno(), self._sample.stdout.fileno(), self._sample.socket
        )
        self._sequence = 0
        self._frozen_at_ns = 0

    # -- life ---------------------------------------------------------------------------------------

    def await_ready(self) -> None:
        """Wait until the sample has imported torch, then freeze it and hold it on the measuring core."""
        self._guard("start", lambda: self._channel.receive_empty(Kind.READY, 0, self._limits.start_ms))
        self.freeze()
        affinity.pin(self.pids(), self._cores.measuring)

    def load(self, problem: Problem) -> int:
        """Import the tree and hand over the weights; frozen again afterwards. The nanoseconds it took."""
        self._sequence += 1
        loading = message(Kind.LOAD, self._sequence, buffers(problem.weights), config=problem.config)
        limit = self._limits.load_ms
        self.thaw()

        def exchange() -> None:
            self._channel.send(loading, limit)
            self._channel.receive_empty(Kind.LOADED, self._sequence, limit)

        start = time.perf_counter_ns()
        self._guard("load", exchange)
        elapsed_ns = time.perf_counter_ns() - start
        self.freeze()
        self._refuse_unread("load")
        return elapsed_ns

    def call(self, inputs: Tensors, outputs: tuple[TensorSpec, ...]) -> tuple[Tensors, int]:
        """The answers and the nanoseconds from "message sent" to "all bytes received"; frozen again afterwards."""
        return self._timed(Kind.CALL, inputs, outputs)

    def echo(self, inputs: Tensors) -> int:
        """Nanoseconds that the first input takes there and back without any call."""
        name, value = next(iter(inputs.items()))
        return self._timed(Kind.ECHO, {name: value}, (TensorSpec(name, str(value.dtype), value.shape),))[1]

    def _timed(self, kind: Kind, inputs: Tensors, outputs: tuple[TensorSpec, ...]) -> tuple[Tensors, int]:
        self._sequence += 1
        answer = answer_for(outputs, self._sequence)
        asking = message(kind, self._sequence, buffers(inputs), answer)
        self.thaw()
        try:
            elapsed_ns: int = self._guard(
                "call", lambda: self._channel.exchange(asking, answer, self._limits.call_ms)
            )
        finally:
            asking.close()
            answer.close()
        self.freeze()
        self._refuse_unread("call")
        return as_arrays(answer.payload, outputs), elapsed_ns

    def _refuse_unread(self, stage: str) -> None:
        if self._channel.has_unread():
            raise SideFailed("protocol_violation", self.name, stage, "bytes arrived that were not asked for")

    # -- freezing -----------------------------------------------------------------------------------

    def freeze(self) -> None:
        self._sample.freeze()
        self._frozen_at_ns = self._sample.cpu_ns()

    def thaw(self) -> None:
        self._sample.thaw()

    def take_cpu_while_frozen_ns(self) -> int:
        """CPU time used since it was frozen or since this was asked last. Call it while it is frozen."""
        before, self._frozen_at_ns = self._frozen_at_ns, self._sample.cpu_ns()
        return self._frozen_at_ns - before

    # -- ending -------------------------------------------------------------------------------------

    def log(self) -> str:
        """Output of the process on stdout and stderr, bounded."""
        return self._sample.log().decode(errors="replace")

    def take_log(self) -> str:
        """Take the whole lines written since the last call, safe to print; to be called again after `close`."""
        return self._sample.take_log()

    def pids(self) -> list[int]:
        """Numbers of its live processes on this machine."""
        return self._sample.pids()

    def peak_memory_bytes(self) -> int:
        return self._sample.peak_memory_bytes()

    def kill(self) -> None:
        """Kill the process; from any thread."""
        self._sample.kill()

    def close(self) -> None:
        self._sample.close()

    # -- failing ------------------------------------------------------------------------------------

    def _guard(self, stage: str, act: Callable[[], Any]) -> Any:
        """Run one exchange; whatever goes wrong becomes SideFailed."""
        try:
            return act()
        except SampleRaised as error:
            raise SideFailed("crash", self.name, stage, str(error)) from None
        except SampleSilent:
            limit_ms = {"start": self._limits.start_ms, "load": self._limits.load_ms}.get(
                stage, self._limits.call_ms
            )
            raise SideFailed(
                "timeout", self.name, stage, f"no complete answer within {limit_ms} ms"
            ) from None
        except WrongForm as error:
            raise SideFailed("wrong_output", self.name, stage, str(error)) from None
        except ProtocolError as error:
            raise SideFailed("protocol_violation", self.name, stage, str(error)) from None
        except SampleClosed:
            raise self._ended(stage) from None

    def _ended(self, stage: str) -> SideFailed:
        with suppress(TimeoutExpired):
            self._sample.wait(ENDING_S)
        limit, returncode = self._sample.limit_hit(), self._sample.returncode
        self._sample.kill()
        if limit == "wall":
            return SideFailed("timeout", self.name, stage, "the time limit of the whole pair was reached")
        if limit is not None:
            return SideFailed("resource_limit", self.name, stage, f"the limit of {limit} was reached")
        lines = self.log().strip().splitlines()
        words = f"; its last output: {lines[-1][:500]}" if lines else ""
        return SideFailed("crash", self.name, stage, f"the process ended with status {returncode}{words}")


def buffers(tensors: Tensors) -> list[TensorBytes]:
    """Arrays as the protocol's tensors, without copying."""
    return [(name, str(value.dtype), value.shape, value.data.cast("B")) for name, value in tensors.items()]


def as_arrays(payload: bytearray | mmap.mmap, specs: tuple[TensorSpec, ...]) -> Tensors:
    """The payload's tensors, without copying."""
    arrays: Tensors = {}
    offset = 0
    for spec in specs:
        count = spec.size_bytes // np.dtype(spec.dtype).itemsize
        flat: Array = np.frombuffer(payload, dtype=spec.dtype, count=count, offset=offset)
        arrays[spec.name] = flat.reshape(spec.shape)
        offset += spec.size_bytes
    return arrays
