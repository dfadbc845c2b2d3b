"""`python -m gainshare.capacity.agent`: the node agent of one host (docs/capacity.md).

SIGTERM or SIGINT drains its nodes and ends; a second one ends them at once. SIGUSR1 is a notice of preemption. Exit
status: 0 ended as told, 1 another agent has the folder, 2 wrong options, 3 another agent speaks for the host, 4 the site
refuses the host's token, 5 the process that speaks for it cannot be started, or has ended; its nodes go on.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.sandbox.levels import SandboxUnavailable
from gainshare.capacity.agent.agent import Agent, say
from gainshare.capacity.agent.options import AgentOptions, parse_options
from gainshare.capacity.agent.outside import Outside, OutsideEnded, start_outside

LOCK = "agent.lock"
LOCK_WAIT_S = 10.0  # for an agent that is about to end
TAKEN, MUTE = 1, 5


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    try:
        outside = start_outside()  # before anything is open that it would inherit
    except (OSError, SandboxUnavailable) as error:
        say(f"error: no process can be started that speaks for this agent: {error}")
        return MUTE
    try:
        options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            options.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        say(f"error: the folder {options.folder} cannot be used: {error.strerror}")
        return TAKEN
    try:
        if not _locked(descriptor):
            say(
                f"error: another agent runs in {options.folder}: end it first, or give this one its own folder"
            )
            return TAKEN
        return asyncio.run(_run(options, outside))
    except OutsideEnded as error:
        say(f"error: {error}; the nodes go on, and the next agent in this folder adopts them")
        return MUTE
    finally:
        os.close(descriptor)


async def _run(options: AgentOptions, outside: Outside) -> int:
    agent = Agent(options, outside, say=say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGUSR1, agent.leave)
    say(f"the agent {agent.id} offers {options.devices} {options.kind} device(s) to {options.url}")
    return await agent.run()


def _locked(descriptor: int) -> bool:
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
