"""Carries out the canary that the site orders: prepares its trees, runs it, and posts what it found until the site has it.

At most one runs. What it found is kept on disk until the order is gone, so an agent that was killed posts it again, and
measures again only what was not finished.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.canary.order import CanaryOrder
from benchmarks.faults import fault_point
from benchmarks.sandbox.levels import SandboxError, SandboxLevel
from gainshare.capacity.agent.background import finished
from gainshare.capacity.agent.canary_process import CanaryPlace, CanaryProcess, CanaryTaken, start_canary
from gainshare.capacity.agent.host_key import HostKey
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.preparing import DoesNotBuild, NotPrepared, Preparer
from gainshare.capacity.agent.protocol import (
    CANARY_PATH,
    MAX_CANARY_BYTES,
    MAX_PROGRESS,
    MAX_TEXT,
    CanaryReport,
)
from gainshare.capacity.agent.records import write_private
from gainshare.capacity.agent.site import Dismissed, Refusal, Site, SiteAbsent, TokenRefused
from gainshare.capacity.agent.starting import Refused, check_model

POLL_S = 0.2
AGAIN_S = 2.0
COULD_NOT = 3  # the canary's status where it could not be carried out; its last line says why
RESULT = "result.json"
REFUSED_DOCUMENT = (400, 413, 422)


class Canary:
    """The canary of one host. ``say`` gets lines for people."""

    def __init__(
        self,
        options: AgentOptions,
        site: Site,
        preparer: Preparer,
        key: HostKey,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._site, self._preparer, self._key = options, site, preparer, key
        self._say = say
        self._place = CanaryPlace(options.folder / "canary")
        self._order: CanaryOrder | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._progress = ""

    @property
    def trees(self) -> set[str]:
        """Trees that it needs."""
        order = self._order
        return set() if order is None else {order.served, order.candidate, order.best} - {""}

    def adopt(self) -> None:
        """End what an earlier agent left running: it is begun again if the site still asks for it."""
        try:
            self._place.make()
            if not self._place.is_free():
                self._say("a canary of an earlier agent is ended")
            self._place.clear()
        except (OSError, CanaryTaken) as error:
            self._say(f"the folder of canaries cannot be used: {error}")

    def follow(self, order: CanaryOrder | None) -> None:
        """Do what the site asks now: begin, go on, or end."""
        if self._task is not None and self._task.done():
            if not self._task.cancelled():
                self._task.result()  # a bug: what it raised ends the agent
            if order is not None and order == self._order and not self._is_ending:
                return  # it is done; the site has not said so yet
            self._task = None
        if self._task is not None:
            if order != self._order and not self._is_ending:
                self._say("the site does not want the canary any more")
                self._is_ending = True
                self._task.cancel()
            return
        self._order, self._is_ending, self._progress = order, False, ""
        if order is None:
            with suppress(OSError):
                self._result.unlink(missing_ok=True)
        else:
            self._say(f"the canary {order.id} of {order.candidate[:12] or 'the installed tree'} begins")
            self._task = asyncio.create_task(self._carry_out(order))

    def stop(self) -> None:
        """End it because the agent ends. What it found stays for the next one to post."""
        self._is_ending = True
        if self._task is not None:
            self._task.cancel()

    def report(self) -> CanaryReport | None:
        order = self._order
        if order is None or self._is_ending:
            return None
        return CanaryReport(order.id, self._progress[:MAX_PROGRESS])

    async def aclose(self) -> None:
        """End it, with all its processes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _result(self) -> Path:
        return self._place.folder / RESULT

    async def _carry_out(self, order: CanaryOrder) -> None:
        body = self._stored(order)
        while body is None:
            try:
                body = await self._try(order)
            except (OSError, CanaryTaken) as error:
                self._progress = f"cannot be begun: {error}"
                await asyncio.sleep(AGAIN_S)
        with suppress(OSError):  # a full disk: then an agent that is killed measures again
            write_private(self._result, json.dumps({"order": order.to_json(), "body": body}))
        fault_point("agent.canary.after_document")
        await self._post(order, body)
        fault_point("agent.canary.after_post")

    async def _try(self, order: CanaryOrder) -> dict[str, Any]:
        """What to post: the document, or why there is none. Raises OSError or CanaryTaken."""
        if self._key.problem:
            return _failed(self._key.problem)
        try:
            check_model(order.model, self._options.models)
            if self._options.level == SandboxLevel.NONE:
                raise NotPrepared("this agent has no sandbox (--level none), and executes no deployed tree")
            for tree in dict.fromkeys((order.served, order.best)):
                await self._prepare(tree)
            try:
                await self._prepare(order.candidate)
            except DoesNotBuild as error:  # the others do, on this same host
                return {**_failed(str(error)), "is_of_tree": True}
        except (NotPrepared, Refused) as error:
            return _failed(str(error))
        return await self._run(order)

    async def _prepare(self, tree: str) -> None:
        """Raises NotPrepared."""
        self._progress = f"prepares the tree {tree[:12] or 'installed'}"
        await self._preparer.ready(tree)

    async def _run(self, order: CanaryOrder) -> dict[str, Any]:
        await finished(self._place.clear)
        trees = self._preparer.folders.folder
        process: CanaryProcess | None = None
        try:
            process = await finished(
                partial(start_canary, order, self._place, trees, self._key.file, self._options)
            )
            while not process.has_ended():
                self._progress = process.progress() or "starts"
                await asyncio.sleep(POLL_S)
            return await finished(partial(_found, process))
        except SandboxError as error:
            return _failed(f"no sandbox can be started: {error}")
        finally:
            with suppress(OSError, CanaryTaken):  # the next one does not begin before all of it is gone
                await finished(self._place.clear)
            if process is not None:
                process.reap()

    async def _post(self, order: CanaryOrder, body: dict[str, Any]) -> None:
        """Repeat until the site has answered: it takes the same document twice."""
        path = CANARY_PATH.format(id=order.id)
        while True:
            try:
                await self._site.post(path, body)
            except (SiteAbsent, TokenRefused, Dismissed):
                self._progress = "is done, and waits for the site"
                await asyncio.sleep(AGAIN_S)
            except Refusal as refusal:
                self._say(f"the site refuses what the canary found: {refusal}")
                if refusal.status not in REFUSED_DOCUMENT or "failed" in body:
                    return
                body = _failed(f"the site refused its document: {refusal}")
            else:
                self._progress = "is done"
                self._say(
                    f"the canary {order.id} is done: {body.get('failed', 'its document is at the site')}"
                )
                return

    def _stored(self, order: CanaryOrder) -> dict[str, Any] | None:
        """What an earlier agent found for this very order: one that is begun again has another nonce."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._result.read_bytes())
            if CanaryOrder.from_json(stored["order"]) == order:
                return dict(stored["body"])
        return None


def _found(process: CanaryProcess) -> dict[str, Any]:
    """What a canary that has ended found."""
    status = process.reap()
    if status == COULD_NOT:
        return _failed(process.last_line() or "it could not be carried out, and gave no reason")
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return _failed(f"the canary ended with {how}: {process.last_line()}")
    try:
        with process.output.open("rb") as output:
            data = output.read(MAX_CANARY_BYTES + 1)
        if len(data) > MAX_CANARY_BYTES:
            return _failed(f"the canary's document is longer than {MAX_CANARY_BYTES >> 20} MiB")
        document = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return _failed("the canary left no document that can be read")
    return {"document": document}


def _failed(why: str) -> dict[str, Any]:
    return {"failed": why[:MAX_TEXT]}
