"""The agent's loop: adopts what runs, carries out the site's orders, and tells the site.

It starts nothing without an order, and decides nothing from the wall clock. It speaks with others through a process that
has its own user (outside.py). While the site is absent, its nodes go on serving. One loop in one thread: a hung node, a
build, or a site that does not answer, delays nothing else.
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
from gainshare.capacity.agent.canary import Canary
from gainshare.capacity.agent.host_key import HostKey
from gainshare.capacity.agent.nodes import Nodes
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.outside import Connection, Outside
from gainshare.capacity.agent.preparing import Preparer
from gainshare.capacity.agent.protocol import HEARTBEAT_S, MAX_REPORTED, MAX_TEXT, EndedReport, Heartbeat
from gainshare.capacity.agent.site import Answer, Dismissed, Refusal, Site, SiteAbsent, TokenRefused
from gainshare.capacity.agent.trees import TreeFolders

TICK_S = 0.1
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0)
REFUSED_S = 60.0  # how long nodes go on while the site refuses the token
LAST_WORDS_S = 3.0  # how long an agent that ends tries to say so
DISMISSED_DRAIN_S = 5.0
KEY_S = 2.0
LOW_FREE_BYTES = 1 << 30
DONE, DISMISSED, REFUSED = 0, 3, 4


class Agent:
    """The agent of one host, from its start to its end. ``say`` gets lines for people."""

    def __init__(self, options: AgentOptions, outside: Outside, *, say: Callable[[str], None]) -> None:
        self.options = options
        self.id = uuid4()
        self._say = say
        self._outside = Connection(outside)
        self._site = Site(self._outside.site, options.url, options.token_file)
        self._key = HostKey(options.folder, say)
        self._soon = asyncio.Event()
        self._trees = TreeFolders(options.folder / "trees", options.level)
        self._preparer = Preparer(self._trees, self._site, say=say, done=self._soon.set)
        self._nodes = Nodes(options, self._preparer, self._outside.nodes, say=say, changed=self._soon.set)
        self._canary = Canary(options, self._site, self._preparer, self._key, say=say)
        self._beat = 0
        self._version = ""
        self._knows_devices = False
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
        is_first = self._status is None
        self._status = status if self._status is None else self._status
        limit_s = self.options.stop_s if drain_s is None else drain_s
        self._nodes.end_all(reason, drain_s=limit_s if is_first else None)
        self._canary.stop()
        self._soon.set()

    def leave(self) -> None:
        """Take a notice of preemption: this host is taken away in ``notice_s``."""
        if self._leaves_s is None:
            self._leaves_s = time.monotonic() + self.options.notice_s
            self._say(f"this host leaves in {self.options.notice_s:g} s: the site is told")
        self._soon.set()

    # -- the loops ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until it is ended; returns the exit status. Raises OutsideEnded: then its nodes go on."""
        await self._outside.open()
        self._adopt()
        listening = asyncio.create_task(self._outside.listen())
        learning = asyncio.create_task(self._learn_version())
        registering = asyncio.create_task(self._register_key())
        speaking = asyncio.create_task(self._speak())
        try:
            while self._status is None or self._nodes:
                for task in (listening, speaking, registering):
                    if task.done():
                        task.result()  # a bug, or no way out any more: what it raised ends the agent
                self._nodes.tend()
                await asyncio.sleep(TICK_S)
            await self._say_goodbye(speaking)
            return self._status
        finally:
            tasks = [learning, registering, speaking, listening]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._canary.aclose()
            await self._preparer.aclose()
            await self._nodes.aclose()
            await self._outside.aclose()

    async def _learn_version(self) -> None:
        self._version = await asyncio.to_thread(_installed_tree)

    async def _register_key(self) -> None:
        """Register the host's key, and again whenever the token was renewed."""
        while True:
            with suppress(SiteAbsent, TokenRefused, Dismissed):  # heartbeats tell
                await self._key.register(self._site)
            await asyncio.sleep(KEY_S)

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
        told = dict(list(self._nodes.ended.items())[:MAX_REPORTED])
        fault_point("agent.heartbeat.before_send")
        is_ending = self._status is not None
        answer = await self._site.send(self._heartbeat(told))
        fault_point("agent.heartbeat.after_answer")
        self._is_end_told = is_ending
        self._refused_since_s = None
        self._say_once("the site answers")
        for node in told:
            self._nodes.ended.pop(node, None)
        self._carry_out(answer)
        return answer.interval_s

    # -- steps ----------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        self._key.make()
        try:
            self._trees.make()
        except OSError as error:
            self._say(f"the folder of trees cannot be used: {error.strerror}")
        self._canary.adopt()
        self._nodes.adopt()

    def _carry_out(self, answer: Answer) -> None:
        is_ending = self._status is not None
        if not is_ending:
            self._canary.follow(answer.canary)
        # An answer to one that did not know its devices does not know them either: what it orders may be what was lost.
        self._nodes.carry_out(answer.nodes, may_start=not is_ending and self._knows_devices)
        wanted = {order.tree for order in answer.nodes} | self._canary.trees
        self._preparer.keep_only(set() if is_ending else wanted)
        with suppress(OSError):
            for tree in self._trees.remove_unused(wanted | self._nodes.trees):
                self._say(f"the tree {tree[:12]} is removed: others were used since")

    def _heartbeat(self, told: dict[UUID, str]) -> Heartbeat:
        reports, self._knows_devices = self._nodes.reports()
        now_s = time.monotonic()
        offered = self.options.devices if self._status is None and self._knows_devices else 0
        return Heartbeat(
            agent=self.id,
            beat=self._beat,
            n_devices=offered,
            devices=reports,
            ended=tuple(EndedReport(node, reason[:MAX_TEXT]) for node, reason in told.items()),
            version=self._version,
            problem=self._problem(),
            leaves_in_s=None if self._leaves_s is None else max(0, round(self._leaves_s - now_s)),
            canary=self._canary.report(),
        )

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
            (self._nodes.ended or not self._is_end_told)
            and time.monotonic() < deadline_s
            and not speaking.done()
        ):
            self._soon.set()
            await asyncio.sleep(TICK_S)

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


def _installed_tree() -> str:
    """Hash of the installed tree; empty where it cannot be had."""
    with suppress(OSError, TreeError), tempfile.TemporaryDirectory(prefix="gainshare-tree-") as folder:
        return shipped_tree(BlobStore(Path(folder))).hash
    return ""
