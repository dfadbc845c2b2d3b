"""A process that keeps what it frees takes no page a second time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from model.training.run.host_memory import LARGE_PAGES

pytestmark = pytest.mark.slow

PROGRAM = """
import resource, sys
if sys.argv[1] == "keep":
    from model.training.run.host_memory import keep_freed_memory
    assert keep_freed_memory()
import torch
torch.set_num_threads(1)

def touch():
    blocks = [torch.ones(6 << 20) for _ in range(3)]  # 24 MiB each
    return float(blocks[2][-1])

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != LARGE_PAGES}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return int(done.stdout)


def test_a_training_process_does_not_take_its_pages_anew_in_each_step() -> None:
    given_back, kept = faults("default"), faults("keep")
    assert given_back > 10_000
    assert kept < given_back / 100
