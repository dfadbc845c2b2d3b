"""The agent's loop: adopts what runs, carries out the site's orders, watches its nodes, and tells the site.

It starts nothing without an order, and decides nothing from the wall clock. While the site is absent, its nodes go on
serving. One loop in one thread: a hung node, or a site that does not answer, delays nothing else.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

from benchmarks.faults import fault_point
from benchmarks.patch.trees import BlobStore, TreeError, shipped_tree
from gainshare.capacity.agent import probing
from gainshare.capacity.agent.devices import Device, devices_in
from gainshare.capacity.agent.node import DRAIN_GRACE_S, RunningNode
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import (
    HEARTBEAT_S,
    MAX_REPORTED,
    MAX_TEXT,
    DeviceReport,
    EndedReport,
    Heartbeat,
    NodeOrder,
)
from gainshare.capacity.agent.records import read_record
from gainshare.capacity.agent.site import Answer, Dismissed, Refusal, Site, SiteAbsent, TokenRefused
from gainshare.capacity.agent.starting import DeviceTaken, Refused, start
from gainshare.capacity.agent.watching import Watch

TICK_S = 0.1
PROBE_S = 0.5
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0)
REFUSED_S = 60.0  # how long nodes go on while the site refuses the token
LAST_WORDS_S = 3.0  # how long an agent that ends tries to say so
DISMISSED_DRAIN_S = 5.0
LOW_FREE_BYTES = 1 << 30
DONE, DISMISSED, REFUSED = 0, 3, 4


class Agent:
    """The agent of one host, from its start to its end. ``say`` gets lines for people."""

    def __init__(self, options: AgentOptions, *, say: Callable[[str], None]) -> None:
        self.options = options
        self.id = uuid4()
        self._say = say
        self._site = Site(options.url, options.token_file)
        self._probes = probing.new_client()
        self._nodes: dict[int, RunningNode] = {}
        self._watchers: dict[int, asyncio.Task[None]] = {}
        self._ended: dict[UUID, str] = {}
        self._beat = 0
        self._version = ""
        self._soon = asyncio.Event()
        self._leaves_s: float | None = None
        self._refused_since_s: float | None = None
        self._said = ""
        self._status: int | None = None  # set once the agent ends
        self._is_end_told = False

    # -- from outside ---------------------------------------------------------------------------------

    def stop(
        self, status: int = DONE, *, drain_s: float | None = None, reason: str = "its agent was ended"
    ) -> None:
        """Drain all nodes, then end. Called again, it ends them at once."""
        now_s = time.monotonic()
        is_first = self._status is None
        self._status = status if self._status is None else self._status
        for node in self._nodes.values():
            if is_first:
                node.drain(now_s, reason, self.options.stop_s if drain_s is None else drain_s)
            else:
                node.end(now_s, reason)
        self._soon.set()

    def leave(self) -> None:
        """Take a notice of preemption: this host is taken away in ``notice_s``."""
        if self._leaves_s is None:
            self._leaves_s = time.monotonic() + self.options.notice_s
            self._say(f"this host leaves in {self.options.notice_s:g} s: the site is told")
        self._soon.set()

    # -- the loops ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until it is ended; returns the exit status."""
        self._adopt()
        learning = asyncio.create_task(self._learn_version())
        speaking = asyncio.create_task(self._speak())
        try:
            while self._status is None or self._nodes:
                for task in (speaking, *self._watchers.values()):
                    if task.done():
                        task.result()  # a bug: what it raised ends the agent
                self._tend()
                await asyncio.sleep(TICK_S)
            await self._say_goodbye(speaking)
            return self._status
        finally:
            tasks = [learning, speaking, *self._watchers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._site.aclose()
            await self._probes.aclose()

    async def _learn_version(self) -> None:
        self._version = await asyncio.to_thread(_installed_tree)

    async def _speak(self) -> None:
        """Send heartbeats, sooner after a change, later while the site is absent."""
        failures = 0
        while True:
            self._soon.clear()
            wait_s = HEARTBEAT_S
            try:
                wait_s = await self._speak_once()
                failures = 0
            except SiteAbsent as absent:
                self._say_once(f"the site is absent ({absent}); nodes go on")
                failures += 1
            except TokenRefused as refused:
                self._take_refusal(refused)
                failures += 1
            except Refusal as refusal:
                self._say_once(f"the site refuses the heartbeat: {refusal}")
                failures += 1
            except Dismissed as dismissed:
                self._say_once(f"{dismissed}")
                self.stop(DISMISSED, drain_s=DISMISSED_DRAIN_S, reason="another agent speaks for this host")
                return
            if failures:
                wait_s = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] * random.uniform(0.75, 1.0)
                await asyncio.sleep(wait_s)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._soon.wait(), wait_s)

    async def _speak_once(self) -> float:
        self._beat += 1
        told = dict(list(self._ended.items())[:MAX_REPORTED])
        fault_point("agent.heartbeat.before_send")
        is_ending = self._status is not None
        answer = await self._site.send(self._heartbeat(told))
        fault_point("agent.heartbeat.after_answer")
        self._is_end_told = is_ending
        self._refused_since_s = None
        self._say_once("the site answers")
        for node in told:
            self._ended.pop(node, None)
        self._carry_out(answer)
        return answer.interval_s

    async def _watch(self, node: RunningNode) -> None:
        """Probe one node while it runs; each has a task of its own, so that a hung one delays no other."""
        while self._nodes.get(node.device.number) is node:
            await self._probe(node)
            await asyncio.sleep(PROBE_S)

    def _take_in(self, node: RunningNode) -> None:
        number = node.device.number
        self._nodes[number] = node
        self._watchers[number] = asyncio.create_task(self._watch(node))

    async def _probe(self, node: RunningNode) -> None:
        before = node.watch.state(time.monotonic(), self.options)
        host = f"[{self.options.listen}]" if ":" in self.options.listen else self.options.listen
        seen = await probing.probe(self._probes, f"http://{host}:{node.record.port}", node.token)
        now_s = time.monotonic()
        node.watch.note(now_s, seen)
        if node.watch.state(now_s, self.options) != before:
            self._say(f"node {node.record.node} is {node.watch.state(now_s, self.options)}")
            self._soon.set()

    # -- steps ----------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Find what an earlier agent left running. What cannot be told is ended: it serves no one."""
        for device in devices_in(self.options.folder, self.options.devices):
            try:
                device.make()
            except OSError as error:
                self._say(f"device {device.number} cannot be used: {error.strerror}")
            record = read_record(device.record)
            if not device.is_held():
                continue
            if record is None:
                self._say(f"device {device.number} is held by an unknown process: it is killed")
                device.kill()
                continue
            self._say(f"node {record.node} still runs on device {device.number}: it is adopted")
            node = RunningNode(device, record, _token(device), Watch(time.monotonic()))
            self._take_in(node)
            if device.number >= self.options.devices:
                node.drain(time.monotonic(), "its device is no longer offered", self._drain_s)

    def _tend(self) -> None:
        now_s = time.monotonic()
        for number, node in list(self._nodes.items()):
            if node.tend(now_s, self.options):
                fault_point("agent.end.before_report")
                why = node.why()
                self._say(f"node {node.record.node} on device {number} has ended: {why}")
                self._ended[node.record.node] = why
                del self._nodes[number]
                self._watchers.pop(number).cancel()
                self._soon.set()

    def _carry_out(self, answer: Answer) -> None:
        """Start, drain and end, so that what runs becomes what the site wants."""
        now_s = time.monotonic()
        wanted = {order.device: order for order in answer.nodes if order.device < self.options.devices}
        for number, node in self._nodes.items():
            order = wanted.get(number)
            if order is None or order.node != node.record.node:
                node.drain(now_s, "the site does not want it any more", self._drain_s)
            elif order.is_draining:
                node.drain(now_s, "the site drains it", self._drain_s)
        for number, order in wanted.items():
            is_open = number not in self._nodes and not order.is_draining and order.node not in self._ended
            if is_open and self._status is None:
                self._start(order)

    def _start(self, order: NodeOrder) -> None:
        device = Device(order.device, self.options.folder / "devices" / str(order.device))
        try:
            device.make()
            process, record = start(order, device, self.options)
        except DeviceTaken as taken:
            self._say_once(f"{taken}: what is left there is killed")
            device.kill()  # it is no node that this agent knows; the order is tried again with the next answer
        except (Refused, OSError) as error:
            why = (
                str(error)
                if isinstance(error, Refused)
                else f"it could not be started: {error.strerror or error}"
            )
            self._say(f"node {order.node} is not started: {why}")
            self._ended[order.node] = why[:MAX_TEXT]
            self._soon.set()
        else:
            self._say(
                f"node {order.node} starts on device {order.device} with {order.model}, port {record.port}"
            )
            watch = Watch(time.monotonic())
            self._take_in(RunningNode(device, record, order.token, watch, process))
            self._soon.set()

    def _heartbeat(self, told: dict[UUID, str]) -> Heartbeat:
        now_s = time.monotonic()
        numbers = sorted({*range(self.options.devices), *self._nodes})
        reports = tuple(
            self._nodes[number].report(now_s, self.options) if number in self._nodes else DeviceReport(number)
            for number in numbers
            if number in self._nodes or self._is_known_free(number)
        )
        offered = self.options.devices if self._status is None and len(reports) == len(numbers) else 0
        return Heartbeat(
            agent=self.id,
            beat=self._beat,
            n_devices=offered,
            devices=reports,
            ended=tuple(EndedReport(node, reason[:MAX_TEXT]) for node, reason in told.items()),
            version=self._version,
            problem=self._problem(),
            leaves_in_s=None if self._leaves_s is None else max(0, round(self._leaves_s - now_s)),
        )

    def _is_known_free(self, number: int) -> bool:
        """Whether a device without a node of this agent is free. What is left there is none of its nodes: it is killed."""
        device = Device(number, self.options.folder / "devices" / str(number))
        if device.is_free():
            return True
        device.kill()
        return False

    def _problem(self) -> str:
        try:
            free = shutil.disk_usage(self.options.folder).free
        except OSError as error:
            return f"its agent's folder cannot be read: {error.strerror}"[:MAX_TEXT]
        return f"its disk is nearly full: {free >> 20} MiB are free" if free < LOW_FREE_BYTES else ""

    def _take_refusal(self, refused: TokenRefused) -> None:
        now_s = time.monotonic()
        self._refused_since_s = self._refused_since_s or now_s
        self._say_once(f"the site refuses this host's token: {refused}")
        if now_s - self._refused_since_s > REFUSED_S:
            self.stop(REFUSED, drain_s=DISMISSED_DRAIN_S, reason="the site refuses this host's token")

    async def _say_goodbye(self, speaking: asyncio.Task[None]) -> None:
        """Tell the site which nodes ended, if it listens."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while (
            (self._ended or not self._is_end_told) and time.monotonic() < deadline_s and not speaking.done()
        ):
            self._soon.set()
            await asyncio.sleep(TICK_S)

    @property
    def _drain_s(self) -> float:
        return self.options.drain_s + DRAIN_GRACE_S

    def _say_once(self, line: str) -> None:
        """Say a line unless it was the last one of this kind."""
        if line != self._said:
            self._said = line
            self._say(line)


def say(line: str) -> None:
    """Print a line for people; what cannot be printed is dropped, because the disk may be full."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _token(device: Device) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return device.token.read_text().strip()
    return ""


def _installed_tree() -> str:
    """Hash of the installed tree; empty where it cannot be had."""
    with suppress(OSError, TreeError), tempfile.TemporaryDirectory(prefix="gainshare-tree-") as folder:
        return shipped_tree(BlobStore(Path(folder))).hash
    return ""
