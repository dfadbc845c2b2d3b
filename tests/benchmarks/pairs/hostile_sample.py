"""The sandboxed half of a suite whose sample does what its tree says, however hostile.

Mounted as /harness/suite_sample.py. The tree's script.json has the steps of loading and of calling, each `[name, arguments...]`.
A call answers rightly (the input, doubled) once its steps are done, unless one of them ended the process or the call.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

STEPS = {}
PR_SET_NAME = 15
F_ADD_SEALS, F_SEAL_SEAL = 1033, 1


def prepare(threads: int, device: str) -> None:
    pass


def build(config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    script: dict[str, Any] = json.loads(Path(tree(), "model/script.json").read_text())
    act(script["load"])
    return script


def tree() -> str:
    """Where the tree is: a plain process is told, a sandbox has it at its place."""
    return os.environ.get("HOSTILE_TREE", "/tree")


def call(state: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    act(state["call"])
    dtype, shape, data = tensors["x"]
    values = struct.unpack(f"<{shape[0]}f", bytes(data))
    answer = struct.pack(f"<{shape[0]}f", *(2 * value for value in values))
    if STEPS.get("answer"):
        return STEPS["answer"](answer)
    return {"y": (dtype, shape, answer)}


def act(steps: list[list[Any]]) -> None:
    for name, *arguments in steps:
        globals()[f"do_{name}"](*arguments)


def pipe() -> Any:
    """The program's own end of the judge's pipes."""
    frame = sys._getframe()
    while "pipe" not in frame.f_locals or not hasattr(frame.f_locals["pipe"], "_outgoing"):
        frame = frame.f_back
    return frame.f_locals["pipe"]


def do_write(data: str) -> None:
    """Bytes on the judge's pipe, in hex; as many as it takes without waiting."""
    fd, view = pipe()._outgoing, memoryview(bytes.fromhex(data))
    while view:
        view = view[os.write(fd, view) :]


def do_flood(count: int) -> None:
    fd = pipe()._outgoing
    for _ in range(count):
        os.write(fd, bytes(65536))


def do_frame(kind: int, sequence: int, header: str, payload_bytes: int = 0) -> None:
    """A frame with any header and any stated size, whose head is well formed."""
    text = header.encode("utf-8", "surrogatepass")
    head = struct.pack(
        "<4sB3sIIQ", b"GSF1", kind % 256, b"\0\0\0", sequence % 2**32, len(text), payload_bytes % 2**64
    )
    do_write((head + text).hex())


def do_signal(number: int) -> None:
    os.kill(os.getpid(), number)


def do_exit(status: int) -> None:
    os._exit(status)


def do_abort() -> None:
    os.abort()


def do_segfault() -> None:
    ctypes.string_at(8)


def do_raise(text: str) -> None:
    raise RuntimeError(text)


def do_exit_by_exception(kind: str) -> None:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]("no")


def do_sleep(seconds: float) -> None:
    time.sleep(seconds)


def do_name(name: str) -> None:
    """A name of the process that looks like another line of its status."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, bytes.fromhex(name), 0, 0, 0)


def do_log(count: int, data: str) -> None:
    os.write(2, bytes.fromhex(data) * count)


def do_close(which: str) -> None:
    os.close(getattr(pipe(), f"_{which}"))


def do_close_socket() -> None:
    pipe()._socket.close()


def do_memory(mib: int) -> None:
    STEPS["held"] = bytearray(mib << 20)


def do_scratch(mib: int) -> None:
    with Path("/tmp/full").open("wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))


def do_threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def do_forks(count: int) -> None:
    """Children that sleep; none is waited for."""
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)


def do_storm() -> None:
    """A process that forks and leaves, over and over, in the background."""
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                time.sleep(0.001)


def do_vfork() -> None:
    """A thread that waits in vfork(2) for a child which never executes its program."""
    threading.Thread(target=_vforked, daemon=True).start()
    time.sleep(0.2)


def _vforked() -> None:
    # The stack's subprocesses come to be in this way as well: a program that opens a FIFO which no one writes to.
    path = f"/tmp/fifo{os.getpid()}"
    os.mkfifo(path)
    libc = ctypes.CDLL(
        None
    )  # posix_spawn(3): the child of its vfork opens the file before it executes anything
    actions = ctypes.create_string_buffer(256)
    libc.posix_spawn_file_actions_init(actions)
    libc.posix_spawn_file_actions_addopen(actions, 0, path.encode(), os.O_RDONLY, 0)
    pid = ctypes.c_int()
    arguments = (ctypes.c_char_p * 2)(b"/bin/true", None)
    libc.posix_spawn(ctypes.byref(pid), b"/bin/true", actions, None, arguments, None)


def do_continue_timer() -> None:
    """Timers that continue the process every 20 ms for two seconds, however often it is stopped."""
    signal.signal(signal.SIGCONT, lambda *_: None)  # a signal that is ignored stops its timer
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(1, 101):
        event = (ctypes.c_int * 16)()
        event[2], event[3] = signal.SIGCONT, 0  # sigev_signo, SIGEV_SIGNAL
        timer = ctypes.c_void_p()
        if libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        # Once each: a stop throws away a signal that waits, and with it the timer's next one.
        at = (ctypes.c_long * 4)(0, 0, number // 50, number % 50 * 20_000_000 or 1)
        libc.timer_settime(timer, 0, ctypes.byref(at), None)


def do_spin() -> None:
    """A thread that never stops computing."""

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()


def do_seal_lent() -> None:
    """Closes the judge's next memory against its own seal."""
    real = os.pwrite

    def sealing(fd: int, data: Any, offset: int) -> int:
        import fcntl

        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL)
        return real(fd, data, offset)

    os.pwrite = sealing


def do_map_lent() -> None:
    """Keeps a mapping of the judge's next memory through which it can still be written."""
    import mmap

    real = os.pwrite

    def mapping(fd: int, data: Any, offset: int) -> int:
        STEPS.setdefault("maps", []).append(mmap.mmap(fd, 0))
        return real(fd, data, offset)

    os.pwrite = mapping


def do_truncate_lent() -> None:
    real = os.pwrite

    def truncating(fd: int, data: Any, offset: int) -> int:
        os.ftruncate(fd, 0)
        return real(fd, data, offset)

    os.pwrite = truncating


def do_send_back() -> None:
    """Descriptors towards the judge, through the socket that is one-way."""
    socket.send_fds(pipe()._socket, [b"x"], [0, 1, 2])


def do_answer(name: str, dtype: str, shape: list[int], data: str) -> None:
    STEPS["answer"] = lambda _: {name: (dtype, shape, bytes.fromhex(data))}


def do_answer_number(hexadecimal: str) -> None:
    """A right answer whose first number is another one."""
    number = bytes.fromhex(hexadecimal)
    STEPS["answer"] = lambda right: {"y": ("float32", [len(right) // 4], number + right[4:])}


def do_collect() -> None:
    gc.collect()


def do_watch_frames() -> None:
    """Keeps what every later frame says of itself."""
    inner, frames = pipe(), STEPS.setdefault("frames", [])
    real = inner.receive

    def receive() -> Any:
        kind, sequence, fields, payload = real()
        frames.append([kind.name, sequence, sorted(fields), str(fields.get("config")), payload.nbytes])
        return kind, sequence, fields, payload

    inner.receive = receive


def do_tell_when(number: int) -> None:
    """At its `number`th call: all that a process can see of where it runs, in pieces, on stderr."""
    STEPS["calls"] = STEPS.get("calls", 0) + 1
    if STEPS["calls"] != number:
        return
    packed = base64.b64encode(zlib.compress(json.dumps(seen()).encode(), 9)).decode()
    pieces = [packed[start : start + 1000] for start in range(0, len(packed), 1000)]
    os.write(2, "".join(f"SEEN {piece}\n" for piece in pieces).encode())


def seen() -> dict[str, Any]:
    processes = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    own = Path("/proc/self")
    return {
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "path": sys.path,
        "frames": STEPS.get("frames", []),
        "commands": {pid: text(Path(f"/proc/{pid}/cmdline")) for pid in processes},
        "names": {pid: text(Path(f"/proc/{pid}/comm")) for pid in processes},
        "descriptors": {path.name: str(path.readlink()) for path in held()},
        "maps": sorted({line[73:] for line in text(own / "maps").splitlines() if line[73:]}),
        "files": {place: listing(Path(place)) for place in ("/", "/tmp", "/work", "/harness", "/tree", "/dev/shm")},
        "tree": {str(path): facts(path) for path in sorted(Path("/tree").rglob("*"))},
        **{
            name: text(own / name)
            for name in ("mountinfo", "cgroup", "limits", "status", "uid_map", "loginuid", "sessionid")
        },
        **{
            name: text(Path("/proc", name))
            for name in ("stat", "uptime", "loadavg", "schedstat", "interrupts", "vmstat", "diskstats")
        },
        "idle": sorted(map(str, Path("/sys/devices/system/cpu").glob("cpu*/cpuidle/*/time"))),
    }  # fmt: skip


def text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"errno {error.errno}"


def held() -> list[Path]:
    return [path for path in list(Path("/proc/self/fd").iterdir()) if path.is_symlink()]


def listing(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def facts(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_mode, status.st_nlink, status.st_uid, status.st_size, int(status.st_mtime)]


def do_mark_tree() -> None:
    """Say all that can be seen of the tree's script, then try to leave a mark in it; say which ways were open."""
    path = Path(tree(), "model/script.json")
    status = path.stat()
    os.write(2, f"TREE {[*status, status.st_atime_ns, status.st_ctime_ns, os.listxattr(path)]}\n".encode())
    path.read_bytes()
    ways = {
        "write": lambda: path.open("ab"),
        "mode": lambda: path.chmod(0o777),
        "times": lambda: os.utime(path),
        "attribute": lambda: os.setxattr(path, "user.mark", b"1"),
        "neighbour": lambda: (path.parent / "mark").touch(),
        "link": lambda: path.with_name("link").symlink_to(path),
        "removal": path.unlink,
    }
    for name, way in ways.items():
        try:
            way()
        except OSError:
            continue
        os.write(2, f"MARKED by {name}\n".encode())


def do_clock(moment: str) -> None:
    """When a call's work begins and ends, by the clock that every process can read."""
    os.write(2, f"CLOCK {moment} {time.monotonic_ns()}\n".encode())
