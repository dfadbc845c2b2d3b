"""Scores what users pay: device time per token as the stack's own usage counters state it, in the stack's own process.

The ratio is base's charge over the candidate's. With a tree as its argument it is the process that serves and counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from scoring import FLAGS, FOLDER, TIMEOUT_S, last, say  # type: ignore[import-not-found]

STEPS = 40


def measure(tree: str) -> None:
    from layer import load_layer, make_input  # type: ignore[import-not-found]

    layer, x_TD = load_layer(tree), make_input()
    import torch

    from model.serving.metering.usage import DeviceMeter, RequestMeter

    device, request = DeviceMeter(), RequestMeter(len(x_TD), time.monotonic_ns())
    request.started(time.monotonic_ns())
    with torch.inference_mode():
        for _ in range(STEPS):
            start = time.perf_counter_ns()
            layer(x_TD)
            device.step(time.perf_counter_ns() - start, [(request, len(x_TD))])
            request.token(time.monotonic_ns())
    usage = request.read(time.monotonic_ns())
    print("\n" + json.dumps({"device_ns": usage.device_ns, "tokens": usage.completion_tokens}), flush=True)


def run(tree: str) -> float | None:
    """Nanoseconds charged per token that was delivered."""
    FOLDER.mkdir(exist_ok=True)
    command = [sys.executable, *FLAGS, __file__, tree]
    done = subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=False, text=True
    )
    found = last([line for line in done.stdout.splitlines() if line.startswith('{"device_ns"')])
    return None if found is None else float(json.loads(found)["device_ns"]) / STEPS


def main() -> None:
    base, candidate = run("/base"), run("/candidate")
    if base is None or candidate is None:
        say(0.0, f"nothing counted: base {base}, candidate {candidate}")
    else:
        say(base / max(candidate, 1.0), f"{base:.0f} and {candidate:.0f} ns charged per token")


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
