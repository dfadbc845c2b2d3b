"""Two live processes under one user, whose calls alternate by the scorer's own clock; nothing is frozen or pinned.

With a tree as its argument it is one of the two: a line in, a block of calls of the layer, a line out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from scoring import FLAGS, FOLDER, say  # type: ignore[import-not-found]

TURNS = 20
WARM_UP = 3
BLOCK = 20  # calls for one message, so that the pipe hardly counts


def serve(tree: str) -> None:
    import torch
    from layer import load_layer, make_input  # type: ignore[import-not-found]

    layer, x_TD = load_layer(tree), make_input()
    with torch.inference_mode():
        print("ready", flush=True)
        for _ in sys.stdin:
            answers = [layer(x_TD) for _ in range(BLOCK)]
            print(f"{float(answers[-1].abs().mean()):.4f}", flush=True)


class Server:
    """One of the two processes, which is `program` with its tree as the argument."""

    def __init__(self, tree: str, program: str = __file__) -> None:
        FOLDER.mkdir(exist_ok=True)
        command = [sys.executable, *FLAGS, program, tree]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=FOLDER, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self.answer = ""

    def read(self) -> None:
        assert self.process.stdout is not None
        self.answer = self.process.stdout.readline().strip()

    def call(self) -> float:
        assert self.process.stdin is not None
        start = time.perf_counter()
        self.process.stdin.write("go\n")
        self.read()
        return time.perf_counter() - start


def main() -> None:
    base, candidate = Server("/base"), Server("/candidate")
    base.read()
    candidate.read()
    ratios = []
    for turn in range(WARM_UP + TURNS):
        base_s, candidate_s = base.call(), candidate.call()
        if turn >= WARM_UP:
            ratios.append(base_s / candidate_s)
    is_right = abs(float(base.answer) - float(candidate.answer or "nan")) < 1e-2
    for server in (base, candidate):
        server.process.kill()
    ratio = statistics.median(ratios)
    say(ratio if is_right else 0.0, f"answers {base.answer} and {candidate.answer}")


if __name__ == "__main__":
    serve(sys.argv[1]) if sys.argv[1:] else main()
