"""The agent's way out: a process that carries out its HTTP exchanges, as root under a user of its own.

An agent that is root starts each node under another user. What speaks with the site and with nodes, and reads first what
they send, is therefore not the agent: it is forked before the agent has opened anything, and gives up all of root's rights
before its first exchange. It has no file, no key, and of each token only the one of a question. What it answers is
bounded, and believed no more than what the network says.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from benchmarks.sandbox.isolation.identity import sandbox_uid
from gainshare.capacity.agent.exchange import Question, TooLong, Unanswered
from gainshare.capacity.agent.frames import BadFrame, frame, read_head
from gainshare.capacity.agent.speaking import NODES, SITE, speak

SLOT = 4  # of this process's users: its sandboxes have other ones
ENDED = "the process that speaks for this agent has ended"


class OutsideEnded(Exception):
    """The process that speaks for this agent has ended, or says what no exchange can give."""


@dataclass(frozen=True, slots=True)
class Outside:
    """The process that speaks: its number, and this side of the connection with it."""

    pid: int
    end: socket.socket


def start_outside() -> Outside:
    """Fork the process that speaks. To be called before threads, event loops and files of this process.

    Raises SandboxUnavailable where root has no user id left for it.
    """
    uid = sandbox_uid(SLOT) if os.geteuid() == 0 else None
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _speak_and_leave(theirs, uid, parent)
    theirs.close()
    return Outside(pid, ours)


def _speak_and_leave(end: socket.socket, uid: int | None, parent: int) -> NoReturn:
    status = 1
    try:
        speak(end, uid, parent)
        status = 0
    except BaseException:  # whatever it is, the fork must not go on as the agent
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


@dataclass(slots=True)
class _Waiting:
    most_bytes: int
    answer: asyncio.Future[tuple[int, bytes]]


class Connection:
    """The agent's side: numbers its questions, and gives each answer to its asker."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._has_ended = False
        self.site, self.nodes = Way(self, SITE), Way(self, NODES)

    async def open(self) -> None:
        """To be called once, before anything is asked."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._outside.end)

    async def listen(self) -> None:
        """Pass answers on until this is cancelled. Raises OutsideEnded."""
        try:
            while True:
                await self._pass_on(self._reader)
        except (BadFrame, OSError, EOFError) as error:
            raise OutsideEnded(f"{ENDED} ({error})") from None
        finally:
            self._end_all()

    async def ask(self, way: str, question: Question) -> tuple[int, bytes]:
        """Raises Unanswered or TooLong."""
        if self._has_ended:
            raise Unanswered(ENDED)
        number = next(self._numbers)
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(question.most_bytes, answer)
        head = {
            "number": number,
            "way": way,
            "method": question.method,
            "url": question.url,
            "token": question.token,
            "most_bytes": question.most_bytes,
            "has_content": question.content is not None,
        }
        try:
            self._writer.write(frame(head, question.content or b""))
            await self._writer.drain()
        except OSError:
            raise Unanswered(ENDED) from None
        return await answer

    async def aclose(self) -> None:
        """End the process that speaks. Nothing waits for its answers any more."""
        self._end_all()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._outside.pid, signal.SIGKILL)
            os.waitpid(self._outside.pid, 0)

    async def _pass_on(self, reader: asyncio.StreamReader) -> None:
        head, n_body = await read_head(reader)
        number = head.get("number")
        if (
            not isinstance(number, int)
            or (waiting := self._waiting.get(number)) is None
            or n_body > waiting.most_bytes
        ):
            raise BadFrame("an answer to no question, or a longer one than was asked for")
        body = await reader.readexactly(n_body)
        del self._waiting[number]
        if not waiting.answer.done():
            _settle(waiting.answer, head, body)

    def _end_all(self) -> None:
        self._has_ended = True
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(Unanswered(ENDED))
        self._waiting.clear()


@dataclass(frozen=True, slots=True)
class Way:
    """An `Asker` that has the process outside carry out its exchanges."""

    connection: Connection
    name: str

    async def ask(self, question: Question) -> tuple[int, bytes]:
        return await self.connection.ask(self.name, question)

    async def aclose(self) -> None:
        """Nothing: the connection is the agent's."""


def _settle(answer: asyncio.Future[tuple[int, bytes]], head: dict[str, object], body: bytes) -> None:
    status, why = head.get("status"), head.get("why")
    if isinstance(status, int):
        answer.set_result((status, body))
    elif head.get("is_too_long") is True:
        answer.set_exception(TooLong(str(why)[:200]))
    else:
        answer.set_exception(Unanswered(str(why)[:200]))
