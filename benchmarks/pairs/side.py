"""One side of a pair: a fresh sandboxed process that answers calls, frozen whenever it is not asked.

Turns everything that can go wrong with a sample into one SideFailed with a kind that a verdict can be made of. Knows
neither the other side nor statistics nor verdicts.
"""

import mmap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import numpy as np

from benchmarks.pairs import cores as affinity
from benchmarks.pairs.wire.channel import Channel, SampleClosed, SampleRaised, SampleSilent, WrongForm
from benchmarks.pairs.wire.messages import Answer, Message, answer_for, message
from benchmarks.pairs.wire.protocol import Kind, ProtocolError, TensorBytes
from benchmarks.sandbox import Limits, Mount, Sample, SandboxLevel, Unsteerable, python_runtime, spawn
from benchmarks.sandbox.devices import CPU, device_mounts
from benchmarks.sandbox.readable import readable
from benchmarks.suites.base import Array, Exchange, Problem, Suite, Tensors, TensorSpec, joined

HARNESS = "/harness"
ENDING_S = 5.0  # how long a sample whose pipes closed is waited for, to learn how it ended
MAX_LOG_BYTES = 16 * 1024
MAX_DETAIL_CHARACTERS = 4_000
MAX_PIDS = 64


class SideFailed(Exception):
    """A sample did not do its part. `kind` is one of the evidence's event kinds; `detail` can be stored and printed."""

    def __init__(self, kind: str, side: str, stage: str, detail: str) -> None:
        detail = readable(detail, most=MAX_DETAIL_CHARACTERS)  # the words may be the sample's
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
        self._freeze("start")
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
        self._freeze("load")
        self._refuse_unread("load")
        return elapsed_ns

    def call(self, exchanges: Sequence[Exchange]) -> tuple[Tensors, int]:
        """The answers and the nanoseconds from "message sent" to "all bytes received"; frozen again afterwards.

        Each message is sent after the answer to the one before it, while one clock runs over all of them.
        """
        return self._timed(Kind.CALL, exchanges)

    def echo(self, inputs: Tensors) -> int:
        """Nanoseconds that the first input takes there and back without any call."""
        name, value = next(iter(inputs.items()))
        back = (TensorSpec(name, str(value.dtype), value.shape),)
        return self._timed(Kind.ECHO, (Exchange({name: value}, back),))[1]

    def _timed(self, kind: Kind, exchanges: Sequence[Exchange]) -> tuple[Tensors, int]:
        prepared: list[tuple[Message, Answer]] = []
        try:
            for exchange in exchanges:
                self._sequence += 1
                answer = answer_for(exchange.outputs, self._sequence)
                prepared.append((message(kind, self._sequence, buffers(exchange.inputs), answer), answer))
            self.thaw()
            elapsed_ns: int = self._guard("call", lambda: self._exchange_all(prepared))
        finally:
            for asking, answer in prepared:
                asking.close()
                answer.close()
        self._freeze("call")
        self._refuse_unread("call")
        answers = [
            as_arrays(answer.payload, exchange.outputs)
            for (_, answer), exchange in zip(prepared, exchanges, strict=True)
        ]
        return joined(answers), elapsed_ns

    def _exchange_all(self, prepared: Sequence[tuple[Message, Answer]]) -> int:
        """Nanoseconds from the first byte sent to the last one received. All messages share one limit."""
        start, limit_ns = time.perf_counter_ns(), self._limits.call_ms * 1_000_000
        for number, (asking, answer) in enumerate(prepared):
            if number:
                self._refuse_unread("call")
            left_ns = start + limit_ns - time.perf_counter_ns()
            self._channel.exchange(asking, answer, max(1, left_ns // 1_000_000))
        return time.perf_counter_ns() - start

    def _refuse_unread(self, stage: str) -> None:
        if self._channel.has_unread():
            raise SideFailed("protocol_violation", self.name, stage, "bytes arrived that were not asked for")

    # -- freezing -----------------------------------------------------------------------------------

    def _freeze(self, stage: str) -> None:
        """Freeze the whole tree. Raises SideFailed where its processes do not let themselves be stopped."""
        try:
            self._sample.freeze()
        except Unsteerable as error:
            raise SideFailed("timeout", self.name, stage, str(error)) from None
        self._frozen_at_ns = self._sample.cpu_ns()

    def thaw(self) -> None:
        self._sample.thaw()

    def take_cpu_while_frozen_ns(self) -> int:
        """CPU time used since it was frozen or since this was asked last. Call it while it is frozen."""
        before, self._frozen_at_ns = self._frozen_at_ns, self._sample.cpu_ns()
        return self._frozen_at_ns - before

    # -- ending -------------------------------------------------------------------------------------

    def log(self) -> str:
        """Output of the process on stdout and stderr, bounded and safe to print."""
        return readable(self._sample.log().decode(errors="replace"))

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
        """Kill what is left. Raises SideFailed where its processes cannot be ended."""
        try:
            self._sample.close()
        except Unsteerable as error:
            raise SideFailed("resource_limit", self.name, "end", str(error)) from None

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
        with suppress(Unsteerable):  # `close` tries again, and says so
            self._sample.kill()
        if limit == "wall":
            return SideFailed("timeout", self.name, stage, "the time limit of the whole pair was reached")
        if limit is not None:
            return SideFailed("resource_limit", self.name, stage, f"the limit of {limit} was reached")
        lines = self.log().strip().splitlines()
        words = f"; its last output: {lines[-1][:500]}" if lines else ""
        end = (
            f"the process ended with status {returncode}"
            if returncode is not None
            else "the process closed its pipes"
        )
        return SideFailed("crash", self.name, stage, f"{end}{words}")


def buffers(tensors: Tensors) -> list[TensorBytes]:
    """Arrays as the protocol's tensors, without copying."""
    return [
        (name, str(value.dtype), value.shape, value.data.cast("B") if value.size else b"")
        for name, value in tensors.items()
    ]


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
