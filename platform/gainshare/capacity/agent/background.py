"""Runs work in a thread and waits for its end, whatever happens to who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def finished(work: Callable[[], Result], *, cancel: Callable[[], object] = lambda: None) -> Result:
    """The result of `work`, called in a thread. Cancelled meanwhile, it calls `cancel` and still waits for the end.

    So what `work` uses may be removed afterwards, in any case.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel()
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # seen
        raise
