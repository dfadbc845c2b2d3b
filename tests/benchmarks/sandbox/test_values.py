"""The sandbox's pure parts: values, identities, cgroup paths, log capture, reports. Starts no sandbox."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sandbox import (
    AWARD_ELIGIBLE,
    Limits,
    Mount,
    SandboxError,
    SandboxLevel,
    read_artefact,
    self_test,
)
from benchmarks.sandbox.accounting.cgroup_paths import find_hierarchies
from benchmarks.sandbox.isolation.bubblewrap import sandbox_options
from benchmarks.sandbox.isolation.identity import KEPT_SLOTS, NARROW_BASE, SLOTS, sandbox_uid
from benchmarks.sandbox.isolation.interior import Interior
from benchmarks.sandbox.isolation.unconfined import translate
from benchmarks.sandbox.log_capture import CUT, LogCapture
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.selftest.run import read_report

WHOLE_MAP = "         0          0 4294967295\n"
CONTAINER_MAP = "         0     100000      65536\n"


def test_the_unconfined_level_never_earns() -> None:
    assert SandboxLevel.NONE not in AWARD_ELIGIBLE
    assert set(SandboxLevel) - AWARD_ELIGIBLE == {SandboxLevel.NONE}


@pytest.mark.parametrize("target", ["relative", "/", "/tree/../etc"])
def test_mount_targets_stay_below_the_root(target: str) -> None:
    with pytest.raises(ValueError, match="absolute path below /"):
        Mount(Path("/usr"), target)


@pytest.mark.parametrize(
    "field", ["memory_bytes", "pids", "scratch_bytes", "wall_s", "cpu_s", "idle_s", "log_bytes", "open_files"]
)
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})


def test_limits_name_at_least_one_core() -> None:
    with pytest.raises(ValueError, match="cores"):
        Limits(cores=())
    for cores in (None, (0, 1)):
        with pytest.raises(ValueError, match="first_core must be one of cores, not 2"):
            Limits(cores=cores, first_core=2)


def test_slots_and_judges_never_share_a_uid() -> None:
    uids = {
        sandbox_uid(slot, uid_map=WHOLE_MAP, pid=pid) for slot in range(SLOTS) for pid in (1, 2, 2**22 - 1)
    }
    assert len(uids) == 3 * SLOTS
    assert min(uids) > 2**30
    assert max(uids) < 2**31


@pytest.mark.parametrize("uid_map", [WHOLE_MAP, CONTAINER_MAP])
def test_what_keeps_its_uid_shares_it_with_no_judge(uid_map: str) -> None:
    kept = {sandbox_uid(slot, uid_map=uid_map, pid=0) for slot in range(KEPT_SLOTS)}
    judges = {
        sandbox_uid(slot, uid_map=uid_map, pid=pid) for slot in range(SLOTS) for pid in (1, 2, 2**22 - 1)
    }
    assert len(kept) == KEPT_SLOTS and not kept & judges
    assert max(kept) < (65534 if uid_map == CONTAINER_MAP else 2**31)  # 65534 is nobody's own


def test_a_container_with_few_uids_uses_low_ones() -> None:
    assert sandbox_uid(3, uid_map=CONTAINER_MAP) == NARROW_BASE + 3


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_slots_are_limited(slot: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        sandbox_uid(slot)
    with pytest.raises(ValueError, match="slot"):
        sandbox_uid(KEPT_SLOTS, pid=0)


def test_hierarchies_of_a_hybrid_machine() -> None:
    mountinfo = (
        "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "33 25 0:29 / /tmp rw - tmpfs tmpfs rw,memory\n"
    )
    own = "5:cpu,cpuacct:/\n4:memory:/api/one\n0::/user.slice\n"
    found = find_hierarchies(mountinfo, own)
    assert found.v1 == {
        "memory": Path("/sys/fs/cgroup/memory/api/one"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }
    assert found.v2 == Path("/sys/fs/cgroup/unified/user.slice")


def test_hierarchies_inside_a_container_start_at_the_mounts_root() -> None:
    mountinfo = "30 25 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert find_hierarchies(mountinfo, "0::/docker/abc/worker\n").v2 == Path("/sys/fs/cgroup/worker")
    assert find_hierarchies(mountinfo, "0::/elsewhere\n").v2 == Path("/sys/fs/cgroup")


def test_as_root_the_environment_is_cleared_and_no_user_namespace_is_made() -> None:
    inside = Interior([], [Mount(Path("/opt/x"), "/a/b/c")], Limits(), {"KEY": "value"}, 0, has_cgroup=True)
    options = sandbox_options(inside, SandboxLevel.BUBBLEWRAP)
    assert "--clearenv" in options
    assert options[options.index("--setenv") : options.index("--setenv") + 3] == ["--setenv", "KEY", "value"]
    assert options.index("/a/b") < options.index("/a/b/c"), "folders above a mount are made readable first"
    assert "--unshare-user" not in options, (
        "as root a user namespace would let files of root be made on the host"
    )


def test_an_ordinary_users_sandbox_forbids_further_user_namespaces() -> None:
    inside = Interior([], [], Limits(), {}, 0, has_cgroup=False)
    options = sandbox_options(inside, SandboxLevel.BUBBLEWRAP_USER)
    assert {"--unshare-user", "--disable-userns"} <= set(options)
    assert "--cap-add" not in options


def test_the_runtime_searches_the_tree_first_and_follows_no_editable_install() -> None:
    runtime = python_runtime(path=["/tree"])
    assert runtime.env["PYTHONPATH"].split(":")[0] == "/tree"
    assert "-S" in runtime.argv
    assert all("benchmarks" in mount.hide and not mount.writable for mount in runtime.mounts)


def test_the_unconfined_level_translates_mounts() -> None:
    command = translate(
        ["python", "/tree/run.py", "/treehouse"],
        [Mount(Path("/srv/a"), "/tree")],
        {"PYTHONPATH": "/tree:/packages"},
    )
    assert command == [
        "/usr/bin/env",
        "-i",
        "PYTHONPATH=/srv/a:/packages",
        "python",
        "/srv/a/run.py",
        "/treehouse",
    ]


def _capture(text: bytes, limit: int, sink: io.BytesIO | None = None) -> bytes:
    reader, writer = os.pipe()
    capture = LogCapture(os.fdopen(reader, "rb", buffering=0), sink, limit)
    with os.fdopen(writer, "wb") as file:
        file.write(text)
    capture.close()
    return capture.kept()


def test_a_short_log_is_kept_whole() -> None:
    sink = io.BytesIO()
    assert _capture(b"line\n" * 10, 1000, sink) == b"line\n" * 10
    assert sink.getvalue() == b"line\n" * 10


def test_a_long_log_keeps_its_beginning_and_its_end() -> None:
    sink = io.BytesIO()
    kept = _capture(b"first" + b"." * 5000 + b"last", 1000, sink)
    assert kept.startswith(b"first")
    assert kept.endswith(b"last")
    assert CUT in kept
    assert len(kept) <= 1000 + len(CUT)
    assert sink.getvalue() == b"first" + b"." * 995 + CUT


def test_a_flood_is_cut_off_from_its_writer() -> None:
    reader, writer = os.pipe()
    capture = LogCapture(os.fdopen(reader, "rb", buffering=0), None, 1000)
    with pytest.raises(BrokenPipeError):
        for _ in range(1000):
            os.write(writer, b"x" * 1000)
    os.close(writer)
    capture.close()


def test_a_report_without_a_plan_is_not_containment() -> None:
    (attack,) = read_report("network", b"", "python: not found")
    assert not attack.contained
    assert "python: not found" in attack.detail


def test_an_attack_that_did_not_report_is_not_contained() -> None:
    stdout = b'{"plan": ["one", "two"]}\n{"attack": "one", "escaped": false, "detail": "no"}\n'
    assert {attack.name: attack.contained for attack in read_report("x", stdout, "")} == {
        "x.one": True,
        "x.two": False,
    }


def test_a_garbled_report_is_not_containment() -> None:
    stdout = b'{"plan": ["one"]}\nnoise\n{"attack": "one", "escaped": null, "detail": "no"}\n'
    assert [attack.contained for attack in read_report("x", stdout, "")] == [False, False]


def test_the_unconfined_level_fails_its_self_test() -> None:
    assert [attack.contained for attack in self_test(SandboxLevel.NONE)] == [False]


def test_an_artefact_is_read_from_below_the_folder_only(tmp_path: Path) -> None:
    (tmp_path / "results/sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "results/sub/a.so").write_bytes(b"built")
    (tmp_path / "results/link").symlink_to(tmp_path / "secret")
    (tmp_path / "results/up").symlink_to("..")
    os.mkfifo(tmp_path / "results/pipe")
    os.link(tmp_path / "secret", tmp_path / "results/twin")
    read = lambda name, limit=100: read_artefact(tmp_path / "results", name, limit_bytes=limit)  # noqa: E731
    assert read("sub/a.so") == b"built"
    assert read("sub/a.so", 5) == b"built"
    for name in ("link", "up/secret", "pipe", "twin", "sub", "absent", "../secret", "/etc/passwd", ""):
        with pytest.raises(SandboxError):
            read(name)
    with pytest.raises(SandboxError, match="larger"):
        read("sub/a.so", 4)


def test_importing_the_sandbox_brings_in_neither_torch_nor_django() -> None:
    code = "import sys, benchmarks.sandbox; print(sorted({'torch', 'django', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
