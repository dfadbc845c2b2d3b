"""The container level: its bundle, its self-test as root and rootless, and machines that lack a runtime."""

import importlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sandbox import (
    Attack,
    Limits,
    Mount,
    SandboxLevel,
    SandboxUnavailable,
    best_level,
    levels_here,
    probe,
    self_test,
)
from benchmarks.sandbox.isolation import container
from benchmarks.sandbox.isolation.container import container_command, find_crun
from benchmarks.sandbox.isolation.interior import FILTER_TARGET, INNER_TARGET, SCRATCH, Interior
from benchmarks.sandbox.isolation.seccomp import filter_bytes
from benchmarks.sandbox.probe import LEVEL_VARIABLE, REAL_LEVELS, _probed
from tests.benchmarks.sandbox.ordinary_user import in_sandbox_as_user
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip


@pytest.fixture(scope="module")
def runtime() -> None:
    level_or_skip("container")


@pytest.fixture
def without_crun(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine where crun was not installed."""
    find = container.shutil.which
    monkeypatch.setattr(container.shutil, "which", lambda name: None if name == "crun" else find(name))
    find_crun.cache_clear()
    _probed.cache_clear()
    yield
    find_crun.cache_clear()
    _probed.cache_clear()


def test_a_bundle_shows_what_it_is_told_and_nothing_else(tmp_path: Path, runtime: None) -> None:
    (tmp_path / "source/model").mkdir(parents=True)
    (tmp_path / "source/hidden").mkdir()
    (tmp_path / "bundle").mkdir()
    before = os.umask(0o077)
    try:
        command = container_command(
            Interior(
                ["python", "run.py"],
                [
                    Mount(tmp_path / "source", "/tree/deep", hide=("hidden", "absent")),
                    Mount(tmp_path / "source", "/out", writable=True),
                    Mount(tmp_path / "source", "/work/inside"),
                ],
                Limits(scratch_bytes=12345),
                {"KEY": "a value"},
                3,
                has_cgroup=True,
                socket=9,
            ),
            tmp_path / "bundle",
        )
    finally:
        os.umask(before)
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    process, linux = config["process"], config["linux"]
    assert process["args"][-2:] == ["python", "run.py"]
    assert INNER_TARGET in process["args"]
    assert process["env"] == ["KEY=a value"]
    assert process["noNewPrivileges"] is True
    assert set(process["capabilities"]) == {"bounding", "effective", "inheritable", "permitted", "ambient"}
    assert all(kept == [] for kept in process["capabilities"].values())
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert {"pid", "network", "ipc", "uts", "mount", "cgroup"} <= {
        entry["type"] for entry in linux["namespaces"]
    }
    assert {"/proc/kcore", "/proc/keys", "/proc/kmsg"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    for path in SCRATCH:
        assert "size=12345" in mounts[path]["options"]
    assert {"rro", "rnosuid", "rnodev"} <= set(mounts["/tree/deep"]["options"])
    assert "rro" in mounts["/usr"]["options"]
    assert "rw" in mounts["/out"]["options"]
    assert mounts["/tree/deep/hidden"]["type"] == "tmpfs"
    assert "/tree/deep/absent" not in mounts
    writable = {path for path, mount in mounts.items() if not {"ro", "rro"} & set(mount["options"])}
    assert writable == {"/out", *SCRATCH}
    assert (tmp_path / "bundle/filter").read_bytes() == filter_bytes()
    assert mounts[FILTER_TARGET]["source"] == str(tmp_path / "bundle/filter")
    root = tmp_path / "bundle/rootfs"
    for place in ("", "tree", "tree/deep", "out", "sandbox"):
        assert stat.S_IMODE((root / place).stat().st_mode) == 0o755, place
    assert not (root / "work/inside").exists(), "crun makes it in the scratch folder"
    assert command[command.index("--preserve-fds") + 1] == "7"
    assert command[command.index("--cgroup-manager") + 1] == "disabled"


def test_a_machine_without_crun_says_what_to_install(
    without_crun: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SandboxUnavailable, match="apt-get install crun"):
        probe(SandboxLevel.CONTAINER)
    assert "apt-get install crun" in str(levels_here()[SandboxLevel.CONTAINER])
    monkeypatch.setenv(LEVEL_VARIABLE, "container")
    with pytest.raises(SandboxUnavailable, match="apt-get install crun"):
        best_level(allow_none=True)  # what was asked for by name is not replaced by anything


def test_a_level_can_be_asked_for(runtime: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_level() is not SandboxLevel.CONTAINER
    monkeypatch.setenv(LEVEL_VARIABLE, "container")
    assert best_level() is SandboxLevel.CONTAINER


@pytest.mark.parametrize("asked", ["none", "docker", "Container"])
def test_a_level_that_is_none_cannot_be_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, asked)
    with pytest.raises(SandboxUnavailable, match="bubblewrap, bubblewrap-user, container"):
        best_level(allow_none=True)


def test_a_container_takes_the_place_of_a_missing_bubblewrap(
    runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("benchmarks.sandbox.probe")  # the package has a function of that name
    answers = {SandboxLevel.CONTAINER: None}
    monkeypatch.setattr(module, "_probed", lambda level: answers.get(level, "no bubblewrap"))
    assert best_level() is SandboxLevel.CONTAINER


def test_every_level_is_listed_with_its_reason() -> None:
    levels = levels_here()
    assert tuple(levels) == REAL_LEVELS
    other = SandboxLevel.BUBBLEWRAP_USER if os.geteuid() == 0 else SandboxLevel.BUBBLEWRAP
    assert "to be started by" in str(levels[other])


@pytest.mark.sandbox
def test_every_attack_is_contained_in_a_container(runtime: None) -> None:
    attacks = self_test(SandboxLevel.CONTAINER)
    assert len(attacks) >= 90
    assert [attack for attack in attacks if not attack.contained] == []


@pytest.mark.sandbox
def test_an_ordinary_users_container_is_as_tight_and_dies_with_its_judge(runtime: None) -> None:
    answer = in_sandbox_as_user(
        r"""
        import json, os, signal, time
        from benchmarks.sandbox import Limits, SandboxLevel, python_runtime, run, self_test, spawn
        from benchmarks.sandbox.accounting.groups import CHARGED_WITHIN_S
        python, level = python_runtime(), SandboxLevel.CONTAINER
        out = {"attacks": [vars(attack) for attack in self_test(level)]}
        def start(code):
            return spawn([*python.argv, "-c", code], level=level, mounts=python.mounts, limits=Limits(), env=python.env,
                         slot=0)
        with start("print(1, flush=True)\nwhile True: pass") as sample:
            sample.stdout.read(2)
            sample.freeze()
            time.sleep(CHARGED_WITHIN_S)
            before = sample.cpu_ns()
            time.sleep(0.1)
            out["frozen_ns"] = sample.cpu_ns() - before
            sample.thaw()
            time.sleep(0.1)
            out["thawed_ns"] = sample.cpu_ns() - before
        done = run([*python.argv, "-c", "held = bytearray(b'x') * (1 << 30)"], level=level, mounts=python.mounts,
                   limits=Limits(memory_bytes=200 << 20), env=python.env, slot=0, timeout_s=20, output_limit_bytes=100)
        out["limit"] = done.limit
        with start("raise SystemExit(7)") as sample:
            out["status"] = sample.wait(10)
        judge = os.fork()
        if judge == 0:
            sample = start("import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); print(1, flush=True)\nwhile True: pass")
            sample.stdout.read(2)
            with open(f"/tmp/gainshare-pids-{os.getpid()}", "w") as file:
                json.dump(sample.pids(), file)
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
        from benchmarks.sandbox.isolation.container import make_bundle_folder
        make_bundle_folder().rmdir()
        print(json.dumps(out))
        """,
        "expected: no rootless containers on this machine",
    )
    assert answer.returncode == 0, answer.stderr
    out = json.loads(answer.stdout)
    attacks = [Attack(**attack) for attack in out["attacks"]]
    assert len(attacks) >= 90
    assert [attack for attack in attacks if not attack.contained] == []
    assert out["frozen_ns"] < 1_000_000 < out["thawed_ns"]
    assert (out["limit"], out["status"]) == ("memory", 7)
    assert out["judge killed"] == [True, []]
