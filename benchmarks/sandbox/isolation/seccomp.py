"""The system-call filter of the sandbox, assembled to classic BPF by hand.

Namespaces and dropped capabilities close most doors; this closes those that were found open in spite of them
(nested user namespaces, keyrings, io_uring, vsock ...), and keeps a sandbox on the cores it was pinned to. The
filter is a deny list over a default of "allow": torch and compilers use too many calls for the opposite. Calls
newer than the filter are refused as unknown, other architectures' calls kill the process.

Layout of what the kernel hands to the filter: `struct seccomp_data` in linux/seccomp.h. x86_64 is exercised by
the tests; the aarch64 program is generated from the same rules and untested on hardware.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.sandbox.isolation.syscalls import NEWEST_KNOWN, number
from benchmarks.sandbox.levels import SandboxUnavailable

# linux/bpf_common.h: instruction classes, sizes, modes and jumps, combined to the opcodes used here.
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# linux/seccomp.h
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000

# linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

OFFSET_NUMBER = 0
OFFSET_ARCH = 4
OFFSET_ARGUMENTS = 16  # eight bytes each, little-endian on both machines: the low word comes first

CLONE_NEW_ANY = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
SETUID_OR_SETGID = 0o6000
TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
RLIMIT_CORE = 4
PR_SCHED_CORE = 62
MAP_HUGETLB = 0x40000
MADV_COLD, MADV_PAGEOUT = 20, 21
FCNTL_LOCKS = (5, 6, 7, 36, 37, 38)  # F_GETLK, F_SETLK, F_SETLKW and those of open file descriptions
F_SETLEASE, F_NOTIFY = 1024, 1026
X32_BIT = 0x40000000


@dataclass(frozen=True)
class Rule:
    """Refuses call `name` with `errno`, always or depending on the low word of one argument.

    `when`: "always"; "any_bit" of `values[0]` is set; the argument "equals" one of `values`; it is "not_in" them.
    """

    name: str
    errno: int = errno.EPERM
    when: Literal["always", "any_bit", "equals", "not_in"] = "always"
    argument: int = 0
    values: tuple[int, ...] = ()


def _refuse(names: str, error: int = errno.EPERM) -> list[Rule]:
    return [Rule(name, error) for name in names.split()]


RULES: tuple[Rule, ...] = (
    # Other processes: trace, read, write, borrow their descriptors.
    *_refuse("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp"),
    # Namespaces and the mount table. clone3 hides its flags behind a pointer: glibc falls back to clone on ENOSYS.
    *_refuse("unshare setns chroot pivot_root mount umount2 mount_setattr move_mount open_tree"),
    *_refuse("fsopen fsconfig fsmount fspick quotactl quotactl_fd"),
    Rule("clone", when="any_bit", argument=0, values=(CLONE_NEW_ANY,)),
    Rule("clone3", errno.ENOSYS),
    # Keyrings are not namespaced per sandbox.
    *_refuse("add_key request_key keyctl"),
    # Kernel interfaces with a history of escapes, or which observe the whole machine.
    *_refuse("bpf perf_event_open userfaultfd personality name_to_handle_at open_by_handle_at fanotify_init"),
    *_refuse("io_uring_setup io_uring_enter io_uring_register", errno.ENOSYS),
    *_refuse("modify_ldt lookup_dcookie syslog uselib nfsservctl vhangup acct"),
    *_refuse("kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff"),
    *_refuse("iopl ioperm sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex"),
    # Keeps a sample on its core and priority, and its hands off the others'.
    *_refuse("sched_setaffinity sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set"),
    *_refuse("mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages"),
    Rule("prctl", when="equals", argument=0, values=(PR_SCHED_CORE,)),
    Rule("prlimit64", when="not_in", argument=0, values=(0,)),
    # A crash is handed to the host's core handler, whatever the limit, unless the limit is exactly 1. So it stays.
    Rule("prlimit64", when="equals", argument=1, values=(RLIMIT_CORE,)),
    Rule("setrlimit", when="equals", argument=0, values=(RLIMIT_CORE,)),
    # Memory that no process maps would escape the limit where memory is polled; huge pages escape it everywhere.
    *_refuse("memfd_create memfd_secret", errno.ENOSYS),
    *_refuse("shmget msgget semget"),
    Rule("mmap", errno.ENOMEM, "any_bit", 3, (MAP_HUGETLB,)),
    # Files mounted into several sandboxes are the same files: no locks on them, no watching who opens them or what
    # of them is in the page cache, no throwing them out of it, no flushing of disks. The last two pretend to succeed.
    *_refuse("flock inotify_init inotify_init1 inotify_add_watch cachestat", errno.ENOSYS),
    Rule("fcntl", errno.ENOLCK, "equals", 1, FCNTL_LOCKS),
    Rule("fcntl", errno.EPERM, "equals", 1, (F_SETLEASE, F_NOTIFY)),
    Rule("madvise", 0, "equals", 2, (MADV_COLD, MADV_PAGEOUT)),
    *_refuse("fadvise64 sync syncfs fsync fdatasync sync_file_range", 0),
    # Only local and (empty) IP networks: vsock reaches a virtual machine's host past every namespace.
    Rule("socket", errno.EAFNOSUPPORT, "not_in", 0, (AF_UNIX, AF_INET, AF_INET6)),
    Rule("socketpair", errno.EAFNOSUPPORT, "not_in", 0, (AF_UNIX,)),
    # No keystrokes into a terminal, no set-id files, no device nodes.
    Rule("ioctl", when="equals", argument=1, values=TERMINAL_INJECTION),
    Rule("chmod", when="any_bit", argument=1, values=(SETUID_OR_SETGID,)),
    Rule("fchmod", when="any_bit", argument=1, values=(SETUID_OR_SETGID,)),
    Rule("fchmodat", when="any_bit", argument=2, values=(SETUID_OR_SETGID,)),
    Rule("fchmodat2", when="any_bit", argument=2, values=(SETUID_OR_SETGID,)),
    Rule("mknod", when="any_bit", argument=1, values=(0o6000 | 0o020000,)),  # S_IFCHR and S_IFBLK share a bit
    Rule("mknodat", when="any_bit", argument=2, values=(0o6000 | 0o020000,)),
)


@dataclass(frozen=True)
class Instruction:
    """One `struct sock_filter`: opcode, jump offsets if true and if false, constant."""

    opcode: int
    if_true: int
    if_false: int
    constant: int

    def pack(self) -> bytes:
        return struct.pack("<HBBI", self.opcode, self.if_true, self.if_false, self.constant)


def _return(value: int) -> Instruction:
    return Instruction(RETURN, 0, 0, value)


def _load(offset: int) -> Instruction:
    return Instruction(LOAD_WORD, 0, 0, offset)


def _rule_body(rule: Rule) -> list[Instruction]:
    """Instructions after the call's number matched: a refusal, or a jump to the next rule."""
    refusal = _return(ERRNO | rule.errno)
    if rule.when == "always":
        return [refusal]
    load = _load(OFFSET_ARGUMENTS + 8 * rule.argument)
    if rule.when == "any_bit":
        return [load, Instruction(JUMP_ANY_BIT, 0, 1, rule.values[0]), refusal]
    count = len(rule.values)
    if rule.when == "not_in":  # a match jumps over the remaining tests and the refusal
        tests = [Instruction(JUMP_EQUAL, count - index, 0, value) for index, value in enumerate(rule.values)]
    else:  # a match jumps to the refusal, the last mismatch over it
        tests = [
            Instruction(JUMP_EQUAL, count - 1 - index, int(index == count - 1), value)
            for index, value in enumerate(rule.values)
        ]
    return [load, *tests, refusal]


def assemble(machine: str, rules: Sequence[Rule] = RULES) -> list[Instruction]:
    """The filter as instructions. Where several rules name one call, the first that matches decides."""
    if machine not in AUDIT_ARCH:
        raise SandboxUnavailable(
            f"No system-call filter exists for {machine!r} machines. Run the runner on x86_64 or aarch64."
        )
    program = [
        _load(OFFSET_ARCH),
        Instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _return(KILL_PROCESS),
        _load(OFFSET_NUMBER),
    ]
    if machine == "x86_64":  # x32 calls carry the same architecture and a bit in the number
        program += [Instruction(JUMP_ANY_BIT, 0, 1, X32_BIT), _return(KILL_PROCESS)]
    program += [Instruction(JUMP_GREATER, 0, 1, NEWEST_KNOWN), _return(ERRNO | errno.ENOSYS)]
    bodies: dict[int, list[Instruction]] = {}
    for rule in rules:
        call = number(rule.name, machine)
        if call is not None:
            bodies.setdefault(call, []).extend(_rule_body(rule))
    for call, body in bodies.items():
        body.append(_return(ALLOW))
        program += [Instruction(JUMP_EQUAL, 0, len(body), call), *body]
    return [*program, _return(ALLOW)]


def filter_bytes(machine: str | None = None) -> bytes:
    """The program for `bwrap --seccomp FD`: `struct sock_filter` after `struct sock_filter`."""
    return b"".join(instruction.pack() for instruction in assemble(machine or platform.machine()))
