"""Tasks that run to their end, even when no caller waits for them any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_tasks: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Run `work` to its end, even when no caller waits for it any more."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task
