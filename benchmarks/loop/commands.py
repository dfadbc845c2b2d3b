"""Run the `gainshare` command as a person would: as a process, with `--json`."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.report import MeasuringFailed


def gainshare(*arguments: str, env: Mapping[str, str], may_fail: bool = False) -> Any:
    """The JSON that `gainshare ARGUMENTS --json` prints; progress goes through to stderr.

    Raises MeasuringFailed when the command does, unless `may_fail`.
    """
    argv = [sys.executable, "-m", "gainshare.cli.main", *arguments, "--json"]
    done = subprocess.run(argv, env=dict(env), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 and not may_fail:
        raise MeasuringFailed(
            f"`gainshare {' '.join(arguments)}` ended with {done.returncode}: {done.stdout[-500:]}"
        )
    return json.loads(done.stdout)


@contextmanager
def local_stack(
    *, model: str, port: int, env: Mapping[str, str], options: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A whole local stack for the time of the block, with further `options` of `gainshare up`; gives its state."""
    gainshare("up", "--detach", "--model", model, "--port", str(port), *options, env=env)
    try:
        yield gainshare("status", env=env)
    finally:
        gainshare("down", env=env)
