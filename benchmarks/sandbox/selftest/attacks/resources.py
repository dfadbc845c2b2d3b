"""Uses up what there is. `argv[1]` names the bomb; the host watches, limits and counts.

Each bomb stops growing by itself at a multiple of its limit, so that a sandbox with a hole costs a self-test, not the
machine.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

MIB = 1024 * 1024
SCRATCH = ("/tmp", "/dev/shm", "/work")  # noqa: S108 - filling them is the purpose


def say(text: object) -> None:
    os.write(1, f"{text}\n".encode())


def fork_bomb(limit: int) -> None:
    """Forks up to four times `limit`, each child forking on; says how many this process could make."""
    made = 0
    for _ in range(4 * limit):
        try:
            if os.fork() == 0:
                _fork_on()
        except OSError:
            break
        made += 1
    say(made)
    time.sleep(60)


def _fork_on() -> NoReturn:
    for _ in range(4):
        try:
            if os.fork() == 0:
                break
        except OSError:
            time.sleep(0.05)
    time.sleep(60)
    os._exit(0)


def thread_bomb(limit: int) -> None:
    made = 0
    try:
        for _ in range(4 * limit):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            made += 1
    except RuntimeError:
        pass
    say(made)


def _fill(megabytes: int) -> list[bytearray]:
    return [bytearray(b"x") * MIB for _ in range(megabytes)]


def memory_bomb(limit: int) -> None:
    """Twice `limit` MiB in one process."""
    held = _fill(2 * limit)
    say(len(held))


def memory_bomb_in_parts(limit: int) -> None:
    """Twice `limit` MiB over eight processes, each below the limit."""
    for _ in range(8):
        if os.fork() == 0:
            held = _fill(limit // 4)
            time.sleep(60)
            os._exit(len(held) % 2)
    time.sleep(2)
    say(2 * limit)


def scratch_bomb(limit: int) -> None:
    """Fills every scratch folder; says how many MiB went in, at most eight times `limit`."""
    written = 0.0
    block = b"x" * MIB
    for folder in SCRATCH:
        for number in range(4):
            try:
                with Path(folder, str(number)).open("wb", buffering=0) as file:
                    while written < 8 * limit:
                        written += file.write(block) / MIB
            except OSError:
                continue
    say(written)


def output_flood(limit: int) -> None:
    while True:
        os.write(1, b"x" * 65536)


def log_flood(limit: int) -> None:
    """Floods stderr until it is closed to us."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        for _ in range(100 * limit):
            os.write(2, b"x" * MIB)
    except OSError:
        say("closed")
    else:
        say("endless")


def hang(limit: int) -> None:
    """Ignores what can be ignored, leaves its session twice, closes stdout, and stays."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
    os.close(1)
    while True:
        time.sleep(1)


def busy(limit: int) -> None:
    """Spins in threads and in ever new children, to run while it should be frozen."""
    for _ in range(2):
        threading.Thread(target=_spin, daemon=True).start()
    say("spinning")
    while True:
        child = os.fork()
        if child == 0:
            sum(range(10_000))
            os._exit(0)
        os.waitpid(child, 0)


def _spin() -> None:
    while True:
        sum(range(1000))


BOMBS = {
    bomb.__name__: bomb
    for bomb in (
        *(fork_bomb, thread_bomb, memory_bomb, memory_bomb_in_parts, scratch_bomb),
        *(output_flood, log_flood, hang, busy),
    )
}

if __name__ == "__main__":
    BOMBS[sys.argv[1]](int(sys.argv[2]))
