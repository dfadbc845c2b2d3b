"""Sets out on the host what the self-test's attacks go for: secrets, sockets, a process, files.

Everything is planted fresh, carries random names and is taken away again.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sandbox.isolation.interior import INNER_TARGET
from benchmarks.sandbox.isolation.syscalls import NUMBERS, number
from benchmarks.sandbox.levels import Mount
from benchmarks.sandbox.runtime import PACKAGES_TARGET, base_interpreter, interpreter_mounts

PROBE_TARGET = "/probe"
CANARY_VARIABLE = "GAINSHARE_SANDBOX_CANARY"
BALLAST_BYTES = 1024 * 1024
GREETING = b"the host answers"
CHECKOUT = Path(__file__).resolve().parents[3]
#: Files and folders that a sandbox must not show, where the host has them.
PRIVATE_FILES = (
    "/etc/passwd",
    "/etc/shadow",
    "/etc/hosts",
    "/etc/machine-id",
    "/etc/resolv.conf",
    "/proc/kcore",
)
PRIVATE_FOLDERS = (
    "/home",
    "/var",
    "/run",
    "/srv",
    "/boot",
    "/mnt",
    "/sys/fs/cgroup",
    "/sys/kernel",
    "/etc/ssl",
)


@dataclass(frozen=True)
class Stage:
    """`mount` brings the attack programs in. `facts` is the JSON they are told. `victim` is a process of ours.

    `ballast` is a file among the programs that is in the page cache whole.
    """

    mount: Mount
    facts: dict[str, Any]
    victim: subprocess.Popen[bytes]
    token: str
    ballast: Path


@contextmanager
def set_stage() -> Iterator[Stage]:
    """Plants everything, and removes it at the end."""
    with ExitStack() as stack:
        token = f"gainshare-{secrets.token_hex(8)}"
        canary = secrets.token_hex(16)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gainshare-attack-")))
        folder.chmod(0o755)  # the attack programs are read by an unassigned uid
        shutil.copytree(Path(__file__).with_name("attacks"), folder / "probe/attacks")
        secret_file = folder / "secret"
        secret_file.write_text(canary)
        _plant_ballast(folder / "probe/ballast")
        _plant_environment(stack, canary)
        _plant_descriptor(stack, secret_file)
        shm_file = _plant_shared_memory(stack, token, canary)
        victim = _start_victim(stack, token, canary)
        tcp_port = _listen(stack, socket.AF_INET, ("", 0))
        _listen(stack, socket.AF_UNIX, f"\0{token}")
        _listen(stack, socket.AF_UNIX, str(folder / "socket"))
        prefixes = [mount.target for mount in interpreter_mounts()]
        facts = {
            "canary": canary,
            "token": token,
            "syscalls": {name: number(name, platform.machine()) for name in NUMBERS},
            "secret_file": str(secret_file),
            "shm_file": str(shm_file),
            "socket_path": str(folder / "socket"),
            "abstract_socket": token,
            "tcp_port": tcp_port,
            "addresses": _own_addresses(),
            "victim_pid": victim.pid,
            "victim_token": token,
            "mounted_folders": [
                PROBE_TARGET,
                f"{PROBE_TARGET}/attacks",
                PACKAGES_TARGET,
                "/sandbox",
                *prefixes,
            ],
            "mounted_files": [INNER_TARGET, str(base_interpreter()), f"{PROBE_TARGET}/attacks/attempt.py"],
            "scratch": "/work",
            "ballast": f"{PROBE_TARGET}/ballast",
            "served": "",
            "host_files": [str(secret_file), *_private_files()],
            "host_folders": [str(folder), *_private_folders()],
        }
        yield Stage(Mount(folder / "probe", PROBE_TARGET), facts, victim, token, folder / "probe/ballast")


def _plant_environment(stack: ExitStack, canary: str) -> None:
    """Into the judge's own environment: what is not handed over by name must not get in."""
    os.environ[CANARY_VARIABLE] = canary
    stack.callback(os.environ.pop, CANARY_VARIABLE, None)


def _plant_ballast(path: Path) -> None:
    """Written through to the disk: pages that are still dirty cannot be evicted."""
    with path.open("wb") as file:
        file.write(b"ballast." * (BALLAST_BYTES // 8))
        file.flush()
        os.fsync(file.fileno())


def _plant_descriptor(stack: ExitStack, file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    stack.callback(os.close, fd)
    os.set_inheritable(fd, True)


def _plant_shared_memory(stack: ExitStack, token: str, canary: str) -> Path:
    path = Path("/dev/shm", token)  # noqa: S108 - shared memory is what is meant
    path.write_text(canary)
    stack.callback(path.unlink, missing_ok=True)
    return path


def _start_victim(stack: ExitStack, token: str, canary: str) -> subprocess.Popen[bytes]:
    victim = subprocess.Popen(
        ["/bin/sh", "-c", "read -r end", token], stdin=subprocess.PIPE, env={CANARY_VARIABLE: canary}
    )

    def end() -> None:
        victim.kill()
        victim.communicate()

    stack.callback(end)
    return victim


def _listen(stack: ExitStack, family: int, address: Any) -> Any:
    """Greet every client that connects. Returns the port, for IP."""
    listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.bind(address)
    listener.listen()

    def greet() -> None:
        with suppress(OSError):  # closed: the stage is being cleared
            while True:
                client, _ = listener.accept()
                with client:
                    client.sendall(GREETING)

    threading.Thread(target=greet, name="sandbox-target", daemon=True).start()
    stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return listener.getsockname()[1] if family == socket.AF_INET else None


def _own_addresses() -> list[str]:
    """The host's address on its way out, if it has one. Connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return [probe.getsockname()[0]]
    return []


def _is_mounted(path: Path) -> bool:
    return any(
        path.is_relative_to(mount.source) or mount.source.is_relative_to(path)
        for mount in interpreter_mounts()
    )


def _private_files() -> list[str]:
    """Files the host has, this checkout's and those at the top of the judge's home among them."""
    found = [Path(name) for name in PRIVATE_FILES]
    found += [CHECKOUT / "pyproject.toml", Path(__file__).resolve()]
    with suppress(OSError, RuntimeError):
        found += sorted(path for path in Path.home().iterdir() if path.is_file())[:20]
    return [str(path) for path in found if path.is_file() and not _is_mounted(path)]


def _private_folders() -> list[str]:
    found = [Path(name) for name in PRIVATE_FOLDERS]
    found += [CHECKOUT, CHECKOUT / ".git", CHECKOUT / "benchmarks"]
    with suppress(OSError, RuntimeError):
        found += [Path.home(), Path.home() / ".ssh"]
    return [str(path) for path in found if path.is_dir() and not _is_mounted(path)]
