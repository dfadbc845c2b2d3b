"""The last step inside a sandbox before submitted code: limits, identity, proof, exec.

Runs as `python -I -S -B inner.py LIMITS_JSON COMMAND...`, alone: it imports nothing of ours. It closes every
descriptor but stdin, stdout, stderr and the declared socket, which becomes number 3. As root it gives up root for the
unassigned uid of its slot. Then it reads back from /proc what it has become, and refuses to continue unless no capability
is left, no new privileges can be had and a system-call filter is active.

Where nothing else is between the sample and the outside (bubblewrap's own init can be written to by every process with its
uid), it also becomes the namespace's init: a process of one uid with the sample that the sample cannot open, trace or
end, and that ends with the process that started the sandbox.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

#: Exit status that means "the sandbox was not tight enough, nothing was run".
REFUSED = 97

SOCKET_FD = 3

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LAST_CAPABILITY = 63
CAPABILITY_VERSION_3 = 0x20080522


def refuse(reason: str) -> NoReturn:
    os.write(2, f"sandbox: refused to start: {reason}\n".encode())
    os._exit(REFUSED)


def drop_to(uid: int) -> None:
    """Becomes `uid` with no group, no capability and no way back. Must run as root with the set-id capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())  # effective, permitted, inheritable: nothing


def keep_descriptors(socket: int | None) -> None:
    """Close every descriptor but the three pipes and, where one was declared, `socket` as number 3."""
    first = SOCKET_FD
    if socket is not None:
        if socket == SOCKET_FD:
            os.set_inheritable(socket, True)
        else:
            os.dup2(socket, SOCKET_FD)
        first += 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def set_limits(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def verify(uid: int) -> None:
    """Reads /proc/self/status instead of trusting that the calls above worked."""
    with open("/proc/self/status") as status:  # noqa: PTH123 - pathlib would be most of the start-up time
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    if set(fields["Uid"].split()) != {str(uid)} or set(fields["Gid"].split()) != {str(uid)}:
        refuse(f"still running as uid {fields['Uid']} gid {fields['Gid']}")
    if set(fields["Groups"].split()) - {str(uid)}:  # in a user namespace foreign groups show as this one
        refuse(f"still in groups {fields['Groups']}")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(fields[name], 16) != 0:
            refuse(f"{name} is {fields[name]}")
    if fields["NoNewPrivs"] != "1":
        refuse("new privileges can still be gained")
    if fields["Seccomp"] != "2":
        refuse("no system-call filter is active")


class FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter(path: str) -> None:
    """The system-call filter in `path`, where our starter has not installed it."""
    with open(path, "rb") as file:  # noqa: PTH123 - see verify
        program = file.read()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(FilterProgram(len(program) // 8, program))
    ):
        refuse(f"the system-call filter was not taken: {os.strerror(ctypes.get_errno())}")


def become_init() -> None:
    """Forks: the child returns and becomes the sample, this process waits for it and leaves with its status.

    Not dumpable: its files in /proc belong to root. It holds no pipe, so the judge sees the sample's end at once. A
    signal from inside cannot end the init of a PID namespace.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # the only one that Python catches: it would end this process
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) or libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        refuse("init could not be closed to the sample")
    sample = os.fork()
    if sample == 0:
        return  # execve makes it dumpable again
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    keep_descriptors(None)
    while True:
        pid, status = os.wait()
        if pid == sample:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def main(argv: list[str]) -> NoReturn:
    settings: dict[str, Any] = json.loads(argv[1])
    try:
        keep_descriptors(settings["socket"])
        set_limits(settings["limits"])
        if settings["drop"]:
            drop_to(settings["uid"])
        if settings["filter"]:
            install_filter(settings["filter"])
        verify(settings["uid"])
        os.umask(0o077)
        if settings["init"]:
            become_init()
        os.execvpe(argv[2], argv[2:], dict(os.environ))  # noqa: S606 - becoming the command is the purpose
    except (OSError, ValueError, KeyError) as error:
        refuse(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv)
