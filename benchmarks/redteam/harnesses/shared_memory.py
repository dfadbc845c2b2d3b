"""Gets answers through a file in memory that the stack's process can change, and checks them in a process of its own.

Wrong is what the checker calls wrong; a checker that crashed has called nothing so. With a tree and a descriptor as its
arguments it is the timing process.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

from scoring import FLAGS, FOLDER, TIMEOUT_S, last, print_result, report, results  # type: ignore[import-not-found]


def measure(tree: str, descriptor: str) -> None:
    import torch
    from layer import CALLS, WARM_UP, load_layer, make_input  # type: ignore[import-not-found]

    layer, x_TD = load_layer(tree), make_input()
    with torch.inference_mode():
        for _ in range(WARM_UP):
            layer(x_TD)
        start = time.perf_counter()
        for _ in range(CALLS):
            answer_TD = layer(x_TD)
        seconds = (time.perf_counter() - start) / CALLS
    os.pwrite(int(descriptor), answer_TD.numpy().tobytes(), 0)
    print_result(seconds, correct=True)


def run(tree: str, memory_fd: int) -> str:
    command = [sys.executable, *FLAGS, __file__, tree, str(memory_fd)]
    return subprocess.run(
        command,
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
        pass_fds=[memory_fd],
    ).stdout


def is_wrong(memory: mmap.mmap, expected: bytes) -> bool:
    import numpy as np

    checker = os.fork()
    if checker == 0:
        answer, base = (np.frombuffer(data, np.float32) for data in (memory, expected))
        os._exit(0 if np.allclose(answer, base, rtol=1e-2, atol=1e-2) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(checker, 0)[1]) == 1


def main() -> None:
    from layer import D_MODEL, TOKENS

    FOLDER.mkdir(exist_ok=True)
    size = 4 * TOKENS * D_MODEL
    memory_fd = os.open(FOLDER / "answer", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(memory_fd, size)
    memory = mmap.mmap(memory_fd, size)
    base = last(results(run("/base", memory_fd)))
    expected = memory[:]
    candidate = last(results(run("/candidate", memory_fd)))
    if candidate is not None and is_wrong(memory, expected):
        candidate["correct"] = False
    report(base, candidate)


if __name__ == "__main__":
    measure(*sys.argv[1:]) if sys.argv[1:] else main()
