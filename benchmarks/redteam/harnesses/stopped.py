"""Two live processes whose calls alternate; the idle one is stopped with SIGSTOP, as far as it lets itself be stopped.

Stopped is the tree of its processes by their parents. What does not stop in time is measured as it runs. Inputs are
published: number N is seeded with N + 1. With a tree as its argument it is one of the two.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from interleaved import Server  # type: ignore[import-not-found]
from scoring import say  # type: ignore[import-not-found]

TURNS, WARM_UP = 10, 2
BLOCK = 20  # calls for one message
PATIENCE_S = 0.3


def serve(tree: str) -> None:
    import torch
    from layer import load_layer, make_input  # type: ignore[import-not-found]

    layer = load_layer(tree)
    inputs = iter([make_input(number) for number in range((TURNS + WARM_UP) * BLOCK)])
    with torch.inference_mode():
        print("ready", flush=True)
        for _ in sys.stdin:
            answers = [layer(next(inputs)) for _ in range(BLOCK)]
            print(f"{float(answers[-1].abs().mean()):.4f}", flush=True)


def tree_of(root: int) -> list[int]:
    """`root` and its descendants."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def is_stopped(pid: int) -> bool:
    with suppress(OSError):
        states = [
            path.read_text().rpartition(")")[2].split()[0]
            for path in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
        return all(state in "TtZX" for state in states)
    return True


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def stop(root: int) -> None:
    pids = tree_of(root)
    send(pids, signal.SIGSTOP)
    until_s = time.monotonic() + PATIENCE_S
    while not all(map(is_stopped, pids)):
        if time.monotonic() > until_s:
            send(pids, signal.SIGCONT)  # cannot be stopped; it would only hang
            return
        time.sleep(0.001)


def turn(server: Server) -> float:
    send(tree_of(server.process.pid), signal.SIGCONT)
    seconds: float = server.call()
    stop(server.process.pid)
    return seconds


def main() -> None:
    servers = [Server("/base", __file__), Server("/candidate", __file__)]
    for server in servers:
        server.read()
        stop(server.process.pid)
    ratios, is_right = [], True
    for number in range(WARM_UP + TURNS):
        base_s, candidate_s = map(turn, servers)
        is_right = is_right and servers[0].answer == servers[1].answer
        if number >= WARM_UP:
            ratios.append(base_s / candidate_s)
    for server in servers:
        send(tree_of(server.process.pid), signal.SIGKILL)
    say(
        statistics.median(ratios) if is_right else 0.0, f"answers {servers[0].answer} and {servers[1].answer}"
    )


if __name__ == "__main__":
    serve(sys.argv[1]) if sys.argv[1:] else main()
