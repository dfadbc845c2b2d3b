"""Prepares trees in the background: fetched, checked and built one after the other, while heartbeats and probes go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from benchmarks.faults import fault_point
from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.side import SideFailed
from benchmarks.patch.blobs import SHA256, BlobStore
from benchmarks.patch.paths import Refusal as RefusedInput
from benchmarks.sandbox.levels import SandboxError
from benchmarks.sandbox.readable import readable
from gainshare.capacity.agent.background import finished
from gainshare.capacity.agent.fetching import fetch_tree
from gainshare.capacity.agent.protocol import MAX_TEXT
from gainshare.capacity.agent.site import Dismissed, Refusal, Site, SiteAbsent, TokenRefused
from gainshare.capacity.agent.trees import TreeFolders

AGAIN_S = 2.0  # between two tries while the site is absent
ENDED = "no one asks for this tree any more"


class NotPrepared(Exception):
    """A tree that this host cannot execute; the message says why, safe to show and at most MAX_TEXT long."""


class DoesNotBuild(NotPrepared):
    """A tree that the compiler or the interpreter refuses. It is built by the same command on every host."""


class Preparer:
    """Trees that are ready, or why not. ``say`` gets lines for people, ``done`` is called after each tree."""

    def __init__(
        self,
        folders: TreeFolders,
        site: Site,
        *,
        say: Callable[[str], None],
        done: Callable[[], None],
    ) -> None:
        self.folders = folders
        self._site, self._say, self._done = site, say, done
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._all: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    def is_ready(self, tree: str) -> bool:
        """Whether a tree can be executed now; if not, it is being prepared from now on. Raises NotPrepared, once."""
        if not SHA256.fullmatch(tree):
            raise NotPrepared(f"{tree[:64]!r} is no hash of a tree")
        task = self._tasks.get(tree)
        if task is None and self.folders.has(tree):
            self.folders.note_use(tree)
            return True
        if task is None:
            task = self._tasks[tree] = asyncio.create_task(self._prepare(tree))
            self._all.add(task)
            task.add_done_callback(self._note_end)
        if not task.done():
            return False
        del self._tasks[tree]
        if task.cancelled():
            return False
        task.result()
        return True

    async def ready(self, tree: str) -> None:
        """Wait until a tree can be executed; "" is the installed one, whose folder is made again. Raises NotPrepared."""
        if not tree:
            async with self._one_at_a_time:
                await _explained("the installed tree", self._build_installed())
            return
        while not self.is_ready(tree):
            if task := self._tasks.get(tree):
                await asyncio.wait({task})

    def keep_only(self, wanted: Collection[str]) -> None:
        """Forget trees that no one asks for any more: what is being fetched for them ends, a build may end first."""
        for tree in [tree for tree in self._tasks if tree not in wanted]:
            self._tasks.pop(tree).cancel()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._all.discard(task)
        self._done()

    async def aclose(self) -> None:
        """End what is being prepared, builds too."""
        for task in self._all:
            task.cancel()
        await asyncio.gather(*self._all, return_exceptions=True)

    async def _prepare(self, tree: str) -> None:
        async with self._one_at_a_time:
            self._say(f"the tree {tree[:12]} is fetched and built")
            await _explained(f"the tree {tree[:12]}", self._fetch_and_build(tree))
            self._say(f"the tree {tree[:12]} is ready")

    async def _fetch_and_build(self, name: str) -> None:
        with self.folders.new() as new:
            store = BlobStore(new / "blobs")
            while True:
                try:
                    tree = await fetch_tree(self._site, name, store)
                    break
                except (SiteAbsent, TokenRefused, Dismissed):
                    await asyncio.sleep(AGAIN_S)
            fault_point("agent.tree.after_fetch")
            stop = Cancellation()
            await finished(
                partial(self.folders.build, tree, store, new, stop), cancel=partial(stop.cancel, ENDED)
            )

    async def _build_installed(self) -> None:
        with self.folders.new() as new:
            stop = Cancellation()
            await finished(
                partial(self.folders.build_installed, new, stop), cancel=partial(stop.cancel, ENDED)
            )


async def _explained(what: str, work: Awaitable[None]) -> None:
    """Await `work`; what it raises is raised as NotPrepared. It may quote a compiler, which quotes the tree."""
    try:
        await work
    except RefusedInput as error:
        why = f"{what} is refused: {error.message}"
    except Refusal as error:
        why = f"{what} cannot be fetched: {error}"
    except SideFailed as error:
        why = f"{what} does not build ({error.kind}): {error.detail}"
        if error.kind == "build_failed":
            raise DoesNotBuild(_shown(why)) from None
    except (OSError, SandboxError) as error:
        why = f"{what} cannot be built here: {error}"
    else:
        return
    raise NotPrepared(_shown(why))


def _shown(why: str) -> str:
    return readable(" ".join(why.split()))[:MAX_TEXT]
