"""What the process outside does: gives up its rights, then carries out one exchange for each question.

It is a fork of the agent, so that it needs no file that its own user may not read, as an installation below a private home.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from benchmarks.claims.parent import end_with_parent
from gainshare.capacity.agent import probing, site
from gainshare.capacity.agent.exchange import Asker, Question, TooLong, Unanswered
from gainshare.capacity.agent.frames import frame, read_head

SITE, NODES = "site", "nodes"
PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 15, 38
NAME = b"agent-outside"  # as `ps -o comm` shows it: its command line is the agent's own
MOST_PROCESSES = 64  # threads of name resolution; it starts no programs
#: A terminal sends them to the whole group. This process ends with its connection, after the agent's last words.
NOT_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def speak(end: socket.socket, uid: int | None, parent: int) -> None:
    """Carry out exchanges for the process `parent` until the connection `end` is closed, under the user `uid` if any."""
    for number in NOT_OURS:
        signal.signal(number, signal.SIG_IGN)
    _keep_open(end.fileno())
    with suppress(EOFError, ConnectionError):
        asyncio.run(_speak(end, uid, parent))


async def _speak(end: socket.socket, uid: int | None, parent: int) -> None:
    askers: dict[str, Asker] = {SITE: site.new_asker(), NODES: probing.new_asker()}
    await _import_all(askers[NODES])
    _become(uid, parent)
    reader, writer = await asyncio.open_unix_connection(sock=end)
    running: set[asyncio.Task[None]] = set()
    while True:
        head, n_body = await read_head(reader)
        content = await reader.readexactly(n_body)
        task = asyncio.create_task(_answer(askers[head["way"]], head, content, writer))
        running.add(task)
        task.add_done_callback(running.discard)


async def _answer(asker: Asker, head: dict[str, Any], content: bytes, writer: asyncio.StreamWriter) -> None:
    question = Question(
        head["method"],
        head["url"],
        head["token"],
        head["most_bytes"],
        content if head["has_content"] else None,
    )
    told: dict[str, Any] = {"number": head["number"]}
    body = b""
    try:
        told["status"], body = await asker.ask(question)
    except TooLong as error:
        told |= {"why": str(error), "is_too_long": True}
    except Unanswered as error:
        told |= {"why": str(error)}
    writer.write(frame(told, body))
    with suppress(ConnectionError):
        await writer.drain()


def _keep_open(descriptor: int) -> None:
    """Close all that was open in the process that was forked, its standard files excepted."""
    for found in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if found > 2 and found != descriptor:
            with suppress(OSError):
                os.close(found)


async def _import_all(asker: Asker) -> None:
    """Have Python read what an exchange needs, while it may: a question that no one answers, and a name."""
    with closing(socket.socket()) as unheard:
        unheard.bind(("127.0.0.1", 0))
        for host in ("127.0.0.1", "localhost"):
            with suppress(Unanswered):
                await asker.ask(Question("POST", f"http://{host}:{unheard.getsockname()[1]}/", "", 0, b"{}"))


def _become(uid: int | None, parent: int) -> None:
    """Take the user `uid` for good, and end with `parent`. Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # memory has tokens
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
        os.setresuid(uid, uid, uid)
        os.chdir("/")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "rights could not be given up")
    libc.prctl(PR_SET_NAME, NAME)
    end_with_parent()  # after the change of user, which clears it
    if os.getppid() != parent:
        sys.exit()
