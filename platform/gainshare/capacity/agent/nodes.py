"""The nodes of one host: adopted, started as the site orders, watched, drained, ended, reported. No two in one berth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from benchmarks.confined_node.folders import BERTHS
from benchmarks.faults import fault_point
from gainshare.capacity.agent import probing
from gainshare.capacity.agent.devices import Device, berth_of, devices_in
from gainshare.capacity.agent.exchange import Asker
from gainshare.capacity.agent.node import DRAIN_GRACE_S, RunningNode
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.preparing import NotPrepared, Preparer
from gainshare.capacity.agent.protocol import MAX_TEXT, DeviceReport, NodeOrder
from gainshare.capacity.agent.records import read_record
from gainshare.capacity.agent.starting import DeviceTaken, Refused, check_order, start
from gainshare.capacity.agent.watching import Watch

PROBE_S = 0.5
Key = tuple[int, int]  # device, berth


class Nodes:
    """The nodes that run. ``ended`` says of each that has ended why, until the site has been told."""

    def __init__(
        self,
        options: AgentOptions,
        preparer: Preparer,
        asker: Asker,
        *,
        say: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.options = options
        self.ended: dict[UUID, str] = {}
        self._preparer, self._asker = preparer, asker
        self._say, self._changed = say, changed
        self._nodes: dict[Key, RunningNode] = {}
        self._watchers: dict[Key, asyncio.Task[None]] = {}

    def __bool__(self) -> bool:
        return bool(self._nodes)

    @property
    def trees(self) -> set[str]:
        """Deployed trees that are executed now."""
        return {node.record.tree for node in self._nodes.values()} - {""}

    def adopt(self) -> None:
        """Find what an earlier agent left running. What cannot be told is ended: it serves no one."""
        for device in devices_in(self.options.folder, self.options.devices):
            try:
                device.make()
            except OSError as error:
                self._say(f"{device.name} cannot be used: {error.strerror}")
            record = read_record(device.record)
            if not device.is_held():
                continue
            if record is None:
                self._say(f"{device.name} is held by an unknown process: it is killed")
                device.kill()
                continue
            self._say(f"node {record.node} still runs on {device.name}: it is adopted")
            node = RunningNode(device, record, _token(device), Watch(time.monotonic()))
            self._take_in(node)
            if device.number >= self.options.devices:
                node.drain(time.monotonic(), "its device is no longer offered", self._drain_s)

    def tend(self) -> None:
        """Take one step with each node."""
        for watcher in self._watchers.values():
            if watcher.done():
                watcher.result()  # a bug: what it raised ends the agent
        now_s = time.monotonic()
        for key, node in list(self._nodes.items()):
            if node.tend(now_s, self.options):
                fault_point("agent.end.before_report")
                why = node.why()
                self._say(f"node {node.record.node} on {node.device.name} has ended: {why}")
                self.ended[node.record.node] = why
                del self._nodes[key]
                self._watchers.pop(key).cancel()
                self._changed()

    def carry_out(self, orders: Collection[NodeOrder], *, may_start: bool) -> None:
        """Start, drain and end, so that what runs becomes what the site wants."""
        now_s = time.monotonic()
        wanted = {
            (order.device, order.berth): order
            for order in orders
            if 0 <= order.device < self.options.devices and 0 <= order.berth < BERTHS
        }
        for key, node in self._nodes.items():
            order = wanted.get(key)
            if order is None or order.node != node.record.node:
                node.drain(now_s, "the site does not want it any more", self._drain_s)
            elif order.is_draining:
                node.drain(now_s, "the site drains it", self._drain_s)
        if may_start:
            self._start_all([order for key, order in wanted.items() if self._is_open(key, order)])

    def end_all(self, reason: str, *, drain_s: float | None) -> None:
        """Drain all nodes within ``drain_s``, or end them at once for None."""
        now_s = time.monotonic()
        for node in self._nodes.values():
            if drain_s is None:
                node.end(now_s, reason)
            else:
                node.drain(now_s, reason, drain_s)

    def reports(self) -> tuple[tuple[DeviceReport, ...], bool]:
        """What each berth has, and whether that is known of all. A free second berth is left out."""
        now_s = time.monotonic()
        all_known, reports = True, []
        berths = {(number, berth) for number in range(self.options.devices) for berth in range(BERTHS)}
        for key in sorted({*berths, *self._nodes}):
            if key in self._nodes:
                reports.append(self._nodes[key].report(now_s, self.options))
            elif not self._is_known_free(key):
                all_known = False
            elif not key[1]:
                reports.append(DeviceReport(key[0]))
        return tuple(reports), all_known

    async def aclose(self) -> None:
        """Stop watching; the nodes go on."""
        for task in self._watchers.values():
            task.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    def _is_open(self, key: Key, order: NodeOrder) -> bool:
        return key not in self._nodes and not order.is_draining and order.node not in self.ended

    def _start_all(self, orders: Collection[NodeOrder]) -> None:
        """Start those whose tree is ready; each tree is asked for once, so that all learn why one is not."""
        trees: dict[str, Path | str | None] = {}
        for order in orders:
            try:
                check_order(order, self.options.models, self.options.level)
                if order.tree and order.tree not in trees:
                    trees[order.tree] = self._tree(order.tree)
            except Refused as refused:
                self._refuse(order, str(refused))
                continue
            code = trees[order.tree] if order.tree else None
            if isinstance(code, str):
                self._refuse(order, code)
            elif code is not None or not order.tree:
                self._start(order, code)

    def _tree(self, tree: str) -> Path | str | None:
        """The folder of a tree, why there is none, or None while it is being prepared."""
        try:
            return self._preparer.folders.path(tree) if self._preparer.is_ready(tree) else None
        except NotPrepared as error:
            return str(error)

    def _start(self, order: NodeOrder, code: Path | None) -> None:
        device = self._berth((order.device, order.berth))
        try:
            device.make()
            process, record = start(order, device, self.options, code)
        except DeviceTaken as taken:
            self._say(f"{taken}: what is left there is killed")
            device.kill()  # it is no node that this agent knows; the order is tried again with the next answer
        except Refused as refused:
            self._refuse(order, str(refused))
        except OSError as error:
            self._refuse(order, f"it could not be started: {error.strerror or error}")
        else:
            what = order.model + (f" by the tree {order.tree[:12]}" if order.tree else "")
            self._say(f"node {order.node} starts on {device.name} with {what}, port {record.port}")
            watch = Watch(time.monotonic())
            self._take_in(RunningNode(device, record, order.token, watch, process))
            self._changed()

    def _refuse(self, order: NodeOrder, why: str) -> None:
        self._say(f"node {order.node} is not started: {why}")
        self.ended[order.node] = why[:MAX_TEXT]
        self._changed()

    def _is_known_free(self, key: Key) -> bool:
        """Whether a berth without a node of this agent is free. What is left there is none of its nodes: it is killed."""
        device = self._berth(key)
        if device.is_free():
            return True
        device.kill()
        return False

    def _berth(self, key: Key) -> Device:
        return berth_of(self.options.folder, *key)

    def _take_in(self, node: RunningNode) -> None:
        self._nodes[node.device.key] = node
        self._watchers[node.device.key] = asyncio.create_task(self._watch(node))

    async def _watch(self, node: RunningNode) -> None:
        """Probe one node while it runs; each has a task of its own, so that a hung one delays no other."""
        while self._nodes.get(node.device.key) is node:
            await self._probe(node)
            await asyncio.sleep(PROBE_S)

    async def _probe(self, node: RunningNode) -> None:
        before = node.watch.state(time.monotonic(), self.options)
        host = f"[{self.options.listen}]" if ":" in self.options.listen else self.options.listen
        seen = await probing.probe(self._asker, f"http://{host}:{node.record.port}", node.token)
        now_s = time.monotonic()
        node.watch.note(now_s, seen)
        if node.watch.state(now_s, self.options) != before:
            self._say(f"node {node.record.node} is {node.watch.state(now_s, self.options)}")
            self._changed()

    @property
    def _drain_s(self) -> float:
        return self.options.drain_s + DRAIN_GRACE_S


def _token(device: Device) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return device.token.read_text().strip()
    return ""
