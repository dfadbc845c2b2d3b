"""The system-call filter: every rule of it run through a small BPF machine, then through the kernel."""

import errno
import platform
import struct

import pytest

from benchmarks.sandbox import Limits, SandboxUnavailable, best_level, python_runtime, run
from benchmarks.sandbox.isolation.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    CLONE_NEW_ANY,
    ERRNO,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    JUMP_GREATER,
    KILL_PROCESS,
    LOAD_WORD,
    RETURN,
    RULES,
    X32_BIT,
    Rule,
    assemble,
    filter_bytes,
)
from benchmarks.sandbox.isolation.syscalls import NEWEST_KNOWN, NUMBERS, number

pytestmark = pytest.mark.slow

MACHINES = ("x86_64", "aarch64")
PTHREAD_FLAGS = 0x3D0F00  # what glibc passes to clone for a new thread
FORK_FLAGS = 0x01200011
MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS


def decide(
    machine: str, call: int, *arguments: int, arch: int | None = None, program: bytes | None = None
) -> int:
    """What the assembled filter returns for one call: a BPF machine for the opcodes we use."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", call, AUDIT_ARCH[machine] if arch is None else arch, 0, *padded)
    instructions = list(struct.iter_unpack("<HBBI", program or filter_bytes(machine)))
    accumulator = position = 0
    while True:
        opcode, if_true, if_false, constant = instructions[position]
        position += 1
        if opcode == RETURN:
            return constant
        if opcode == LOAD_WORD:
            accumulator = struct.unpack_from("<I", data, constant)[0]
            continue
        holds = {
            JUMP_EQUAL: accumulator == constant,
            JUMP_GREATER: accumulator > constant,
            JUMP_ANY_BIT: accumulator & constant != 0,
        }[opcode]
        position += if_true if holds else if_false


def refused_with(code: int) -> int:
    return ERRNO | code


def call_number(name: str, machine: str) -> int:
    found = number(name, machine)
    assert found is not None
    return found


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.when == "always"], ids=lambda rule: rule.name
)
def test_plain_rules_refuse(machine: str, rule: Rule) -> None:
    found = number(rule.name, machine)
    if found is None:
        assert NUMBERS[rule.name] != (None, None)
    else:
        assert decide(machine, found) == refused_with(rule.errno)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_dangerous_call_is_named(machine: str) -> None:
    named = {rule.name for rule in RULES}
    dangerous = (
        "ptrace unshare setns mount keyctl add_key request_key bpf perf_event_open userfaultfd io_uring_setup "
        "process_vm_readv process_vm_writev pidfd_getfd personality open_by_handle_at kexec_load init_module clone3"
    )
    assert set(dangerous.split()) <= named
    for name in dangerous.split():
        assert decide(machine, call_number(name, machine)) & 0xFFFF0000 == ERRNO


@pytest.mark.parametrize("machine", MACHINES)
def test_new_namespaces_are_refused_but_threads_and_forks_are_not(machine: str) -> None:
    clone = call_number("clone", machine)
    assert decide(machine, clone, PTHREAD_FLAGS) == ALLOW
    assert decide(machine, clone, FORK_FLAGS) == ALLOW
    for bit in (1 << shift for shift in range(32) if CLONE_NEW_ANY >> shift & 1):
        assert decide(machine, clone, FORK_FLAGS | bit) == refused_with(errno.EPERM)
    assert decide(machine, call_number("clone3", machine)) == refused_with(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (1,), ALLOW),
        ("socket", (2,), ALLOW),
        ("socket", (10,), ALLOW),
        ("socket", (40,), refused_with(errno.EAFNOSUPPORT)),
        ("socket", (16,), refused_with(errno.EAFNOSUPPORT)),
        ("socketpair", (1,), ALLOW),
        ("socketpair", (2,), refused_with(errno.EAFNOSUPPORT)),
        ("ioctl", (0, 0x5413), ALLOW),
        ("ioctl", (0, 0x5412), refused_with(errno.EPERM)),
        ("ioctl", (0, 0x541C), refused_with(errno.EPERM)),
        ("ioctl", (0, 0x5412 | 1 << 32), refused_with(errno.EPERM)),  # the kernel looks at 32 bits
        ("fchmod", (3, 0o755), ALLOW),
        ("fchmod", (3, 0o4755), refused_with(errno.EPERM)),
        ("fchmodat", (3, 0, 0o2755), refused_with(errno.EPERM)),
        ("mknodat", (3, 0, 0o010600), ALLOW),  # a pipe
        ("mknodat", (3, 0, 0o100600), ALLOW),  # a file
        ("mknodat", (3, 0, 0o140600), ALLOW),  # a socket
        ("mknodat", (3, 0, 0o020600), refused_with(errno.EPERM)),  # a character device
        ("mknodat", (3, 0, 0o060600), refused_with(errno.EPERM)),  # a block device
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), refused_with(errno.EPERM)),
        ("prlimit64", (0, 4), refused_with(errno.EPERM)),  # RLIMIT_CORE
        ("prlimit64", (0, 4 | 1 << 32), refused_with(errno.EPERM)),
        ("setrlimit", (7,), ALLOW),
        ("setrlimit", (4,), refused_with(errno.EPERM)),
        ("prctl", (15,), ALLOW),
        ("prctl", (62,), refused_with(errno.EPERM)),  # PR_SCHED_CORE
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 3, 0x22 | 0x40000), refused_with(errno.ENOMEM)),  # MAP_HUGETLB
        ("madvise", (0, 4096, 4), ALLOW),  # MADV_DONTNEED on its memory
        ("madvise", (0, 4096, 20), refused_with(0)),  # MADV_COLD
        ("madvise", (0, 4096, 21), refused_with(0)),  # MADV_PAGEOUT
        *[("fcntl", (3, command), ALLOW) for command in (0, 1, 2, 3, 4, 1030, 1031, 1033, 1034)],
        *[("fcntl", (3, command), refused_with(errno.ENOLCK)) for command in (5, 6, 7, 36, 37, 38)],
        ("fcntl", (3, 1024), refused_with(errno.EPERM)),  # F_SETLEASE
        ("fcntl", (3, 1026), refused_with(errno.EPERM)),  # F_NOTIFY
    ],
)
def test_rules_on_arguments(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert decide(machine, call_number(name, machine), *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_calls_pass_and_unknown_ones_do_not_exist(machine: str) -> None:
    named = {call for name in NUMBERS if (call := number(name, machine)) is not None}
    passing = [call for call in range(NEWEST_KNOWN + 1) if decide(machine, call) == ALLOW]
    assert len(passing) > 300
    assert {call for call in range(NEWEST_KNOWN + 1) if call not in named} <= set(passing)
    assert decide(machine, NEWEST_KNOWN + 1) == refused_with(errno.ENOSYS)
    assert decide(machine, 0xFFFFFFFF if machine == "aarch64" else 0x3FFFFFFF) == refused_with(errno.ENOSYS)


def test_of_several_rules_for_one_call_the_first_that_matches_decides() -> None:
    rules = [
        Rule("prctl", 1, "equals", 0, (5, 6, 7)),
        Rule("prctl", 2, "any_bit", 1, (4,)),
        Rule("prctl", 3, "not_in", 2, (8, 9)),
    ]
    program = b"".join(instruction.pack() for instruction in assemble("x86_64", rules))
    call = call_number("prctl", "x86_64")
    for arguments, expected in (
        *[((value, 4, 1), refused_with(1)) for value in (5, 6, 7)],
        ((4, 4, 8), refused_with(2)),
        ((4, 3, 7), refused_with(3)),
        *[((4, 3, value), ALLOW) for value in (8, 9)],
    ):
        assert decide("x86_64", call, *arguments, program=program) == expected, arguments
    assert decide("x86_64", call + 1, 5, program=program) == ALLOW


def test_other_architectures_calls_kill() -> None:
    assert decide("x86_64", 0, arch=0x40000003) == KILL_PROCESS  # i386
    assert decide("x86_64", X32_BIT | 39) == KILL_PROCESS
    assert decide("aarch64", 0, arch=AUDIT_ARCH["x86_64"]) == KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_one_the_kernel_takes(machine: str) -> None:
    program = assemble(machine)
    assert len(program) < MOST_INSTRUCTIONS
    for position, instruction in enumerate(program):
        assert 0 <= instruction.if_true < 256
        assert 0 <= instruction.if_false < 256
        assert position + 1 + max(instruction.if_true, instruction.if_false) < len(program) or (
            instruction.opcode == RETURN
        )


def test_an_unknown_machine_has_no_filter_and_so_no_sandbox() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        filter_bytes("riscv64")


@pytest.mark.sandbox
def test_the_kernel_enforces_the_filter() -> None:
    """Numbers are right on this machine: calls that would succeed or fail otherwise answer as the rules say."""
    machine = platform.machine()
    always = [rule for rule in RULES if rule.when == "always" and rule.errno != 0]
    calls = {rule.name: (number(rule.name, machine), rule.errno) for rule in always}
    code = (
        "import ctypes, json, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"calls = {calls!r}\n"
        "wrong = []\n"
        "for name, (number, expected) in calls.items():\n"
        "    if number is not None:\n"
        "        result = libc.syscall(ctypes.c_long(number), -1, -1, -1, -1, -1, -1)\n"
        "        if (result, ctypes.get_errno()) != (-1, expected):\n"
        "            wrong.append((name, result, ctypes.get_errno()))\n"
        "print(json.dumps(wrong))\n"
    )
    python = python_runtime()
    done = run(
        [*python.argv, "-c", code],
        level=best_level(),
        mounts=python.mounts,
        limits=Limits(),
        env=python.env,
        slot=0,
        timeout_s=20,
        output_limit_bytes=10_000,
    )
    assert done.stdout.strip() == b"[]", done
