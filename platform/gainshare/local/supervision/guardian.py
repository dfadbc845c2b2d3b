"""The process that outlives a killed supervisor just long enough to end what the supervisor started.

`python -m gainshare.local.supervision.guardian TAG SECONDS`, with the read end of the supervisor's pipe as standard input. A
line `done` means an orderly end. The pipe closing without it means that the supervisor is dead: every process
with the tag gets that many seconds to follow its own death signal, then SIGKILL.
"""

import subprocess
import sys
import time

from gainshare.local.supervision import processes

GRACE_S = 10.0
DONE = b"done\n"


def start_guardian(tag: str, *, grace_s: float = GRACE_S) -> subprocess.Popen[bytes]:
    """Start it; the caller keeps `stdin` open for as long as it lives, and ends with `dismiss`."""
    return subprocess.Popen(
        [sys.executable, "-m", "gainshare.local.supervision.guardian", tag, str(grace_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(guardian: subprocess.Popen[bytes]) -> None:
    """Tell it that all ended in order; one that is no longer there is no loss."""
    try:
        guardian.communicate(DONE, timeout=5)
    except (BrokenPipeError, subprocess.TimeoutExpired):
        guardian.kill()
        guardian.wait()


def main() -> None:
    tag, grace_s = sys.argv[1], float(sys.argv[2])
    if sys.stdin.buffer.read().endswith(DONE):
        return
    deadline = time.monotonic() + grace_s
    while processes.tagged(tag) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes.kill_all(lambda: processes.tagged(tag))


if __name__ == "__main__":
    main()
