"""Guardian process, which ends the supervisor's processes if the supervisor is killed.

`python -m gainshare.local.supervision.guardian TAG SECONDS`, with the read end of the supervisor's pipe as
standard input. A line `done` means an orderly end. If the pipe closes without it, the supervisor is dead:
every process with the tag gets that many seconds to follow its own death signal, then SIGKILL.
"""

import subprocess
import sys
import time

from gainshare.local.supervision import processes

GRACE_S = 10.0
DONE = b"done\n"


def start_guardian(tag: str, *, grace_s: float = GRACE_S) -> subprocess.Popen[bytes]:
    """Start the guardian. The caller keeps `stdin` open while it lives, and ends with `dismiss`."""
    return subprocess.Popen(
        [sys.executable, "-m", "gainshare.local.supervision.guardian", tag, str(grace_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(guardian: subprocess.Popen[bytes]) -> None:
    """Tell the guardian that everything ended in order. It is no error if the guardian has ended."""
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
