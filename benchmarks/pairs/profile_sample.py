"""The program inside the sandbox when a tree is profiled: the suite's calls under torch's profiler.

`profile_sample.py DEVICE`, mounted as /harness/profile_sample.py next to the same files as `sample.py`. It reads frames
from stdin (one LOAD, then CALLs) and writes to stdout: the length of the table (8 bytes), the table, the Chrome trace.
For people only; nothing here is timed for a verdict.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import protocol  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
from protocol import HEAD, Kind

TREE = "/tree"
TRACE = Path("/tmp/trace.json")  # noqa: S108 - the sandbox's own
ROWS = 25


def frames(stream: BinaryIO) -> list[tuple[Kind, dict[str, Any], memoryview]]:
    """All frames up to the end of the stream."""
    found = []
    while head := stream.read(HEAD.size):
        kind, _, header_bytes, payload_bytes = protocol.parse_head(head)
        fields = protocol.decode_header(stream.read(header_bytes))
        found.append((kind, fields, memoryview(bytearray(stream.read(payload_bytes)))))
    return found


def main() -> None:
    device, out = sys.argv[1], os.dup(1)
    os.dup2(2, 1)  # what the stack prints goes to the log
    import suite_sample  # type: ignore[import-not-found]  # next to this file inside the sandbox
    import torch
    from torch.profiler import ProfilerActivity, profile

    suite_sample.prepare(int(os.environ["OMP_NUM_THREADS"]), device)
    sys.path.insert(0, TREE)
    (_, loading, weights), warm_up, *calls = frames(sys.stdin.buffer)
    config = {**loading["config"], "device": device}
    state = suite_sample.build(config, protocol.split_tensors(loading, weights))
    suite_sample.call(state, protocol.split_tensors(*warm_up[1:]))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
        for _, fields, payload in calls:
            with torch.profiler.record_function("call"):
                suite_sample.call(state, protocol.split_tensors(fields, payload))
    profiler.export_chrome_trace(str(TRACE))
    table = profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=ROWS).encode()
    with os.fdopen(out, "wb") as stream:
        stream.write(struct.pack("<Q", len(table)) + table + TRACE.read_bytes())


if __name__ == "__main__":
    main()
