"""Programs that tests run, and kill, in processes of their own, without importing the same libraries for each.

A server process has imported libraries that need no settings, and forks one process for each program: 0.6 s of
processor time until a program of the bounty app runs instead of 1.8 s. Our own modules, and settings from the
environment, are read by each process itself.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

LIBRARIES = (
    "pytest",
    "django.db.backends.postgresql.base",
    "django.contrib.admin.options",
    "django.test",
    "rest_framework.compat",
    "celery.app",
    "kombu.transport.memory",
    "github",
    "httpx",
    "psycopg_pool",
    "redis",
)
"""None of them starts threads while it is imported, which a fork would lose."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(list(LIBRARIES))


def run_forked(
    program: str, *arguments: str, environment: Mapping[str, str], folder: Path, timeout_s: float = 120
) -> tuple[int, str]:
    """Run `program` as `python -c` would, in `folder`; its exit status, negative for a signal, and its output.

    Raises TimeoutError after killing a program that takes longer.
    """
    with TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        output.touch()
        process = _processes.Process(
            target=_run, args=(program, arguments, dict(environment), folder, output)
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(
                f"no end after {timeout_s:.0f} s: {output.read_text(errors='replace')[-2000:]}"
            )
        return process.exitcode, output.read_text(errors="replace")


def _run(
    program: str, arguments: tuple[str, ...], environment: dict[str, str], folder: Path, output: Path
) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["-c", *arguments]
    exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
