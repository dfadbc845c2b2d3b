"""Machines with something missing: a clear error, or a reduced mode that says so."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from benchmarks.sandbox.isolation.seccomp import CLONE_NEW_ANY, Rule, assemble
from gainshare.local.paths import STATE_DIRECTORY, Home, is_binaries_copy
from gainshare.local.ports import free_port
from gainshare.local.reach import unreachable_part
from gainshare.local.supervision.processes import kill_all, tagged
from tests.acceptance.running_stack import ROOT, wait_for
from tests.needs import only_root

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
is_root = os.geteuid() == 0
PACKAGES = Path(psycopg.__file__).parents[1]
Completed = subprocess.CompletedProcess[str]


class Site:
    """A home of a test's own, with the commands run on it in an environment that the test may spoil."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("GAINSHARE_", "DATABASE_")) or name == "GAINSHARE_SCHEMAS"
            },
            "GAINSHARE_HOME": str(root),
        }
        self.env.pop("BROKER_URL", None)
        self.port = free_port()
        self.argv = [sys.executable, "-m", "gainshare.cli.main"]

    def run(self, *arguments: str, **options: object) -> Completed:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*self.argv, *arguments],
            **{
                "env": self.env,
                "capture_output": True,
                "text": True,
                "timeout": 200,
                "check": False,
                **options,
            },
        )

    def up(self, model: str = "none", **options: object) -> Completed:
        return self.run("up", "--detach", "--json", "--port", str(self.port), "--model", model, **options)

    def services(self) -> dict[str, dict[str, object]]:
        state = json.loads(self.run("status", "--json").stdout)
        services: dict[str, dict[str, object]] = state["services"]
        return services

    def remove(self) -> None:
        self.run("down")
        kill_all(lambda: tagged(f"{self.home.digest}."))
        for folder in (self.home.run, self.home.root, self.home.outside):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site_at() -> Iterator[Callable[[Path], Site]]:
    sites: list[Site] = []

    def make(root: Path) -> Site:
        sites.append(Site(root))
        return sites[-1]

    yield make
    for site in sites:
        site.remove()


def message(done: Completed) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    text: str = json.loads(done.stdout)["error"]["message"]
    return text


def test_a_taken_port_is_named_before_anything_starts(
    site_at: Callable[[Path], Site], open_folder: Path
) -> None:
    site = site_at(open_folder / "home")
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        text = message(site.up())
    assert f"port {site.port}" in text
    assert "--port" in text
    assert not site.home.state_file.exists()


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many MiB."""
    mounted: list[Path] = []

    def mount(mebibytes: int) -> Path:
        folder = open_folder / "disk"
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=711", "tmpfs", str(folder)]
        if subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            pytest.skip("expected: this root may not mount")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@only_root
def test_too_small_a_disk_is_named_before_anything_starts(
    small_disk: Callable[[int], Path], site_at: Callable[[Path], Site]
) -> None:
    site = site_at(small_disk(40) / "home")
    text = message(site.up())
    assert "MiB are free" in text
    assert "GAINSHARE_HOME" in text


@pytest.mark.long
@only_root
def test_a_disk_that_fills_up_is_reported_and_survived(
    small_disk: Callable[[int], Path], site_at: Callable[[Path], Site]
) -> None:
    disk = small_disk(400)
    site = site_at(disk / "home")
    up = site.up()
    assert up.returncode == 0, up.stdout
    filler = disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            pass
    seen = wait_for(
        lambda: "MiB are free" in site.run("status").stdout,
        within_s=30,
        what="the warning about the full disk",
    )
    assert seen
    filler.unlink()
    sign_up = {"username": "after", "password": "a-long-enough-pass"}

    def signed_up() -> bool:
        try:
            answer = httpx.post(f"http://127.0.0.1:{site.port}/api/v1/users/", json=sign_up, timeout=10)
        except httpx.HTTPError:
            return False
        return answer.status_code in (201, 409)

    assert wait_for(signed_up, within_s=60, what="the site to take a new user again")
    assert site.run("audit").returncode == 0


FORBID_NAMESPACES = """
import ctypes, os, sys
program = bytes.fromhex(sys.argv[1])
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
buffer = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
filled = Program(len(program) // 8, ctypes.addressof(buffer))
assert libc.prctl(22, 2, ctypes.byref(filled), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, filter
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_without_namespaces_the_site_runs_but_nothing_is_judged(
    site_at: Callable[[Path], Site], open_folder: Path
) -> None:
    """As in a container with the usual system-call filter: unshare and clone with CLONE_NEW* are refused."""
    rules = (
        Rule("unshare"),
        Rule("clone", when="any_bit", argument=0, values=(CLONE_NEW_ANY,)),
        Rule("clone3", 38),  # ENOSYS: glibc falls back to clone
    )
    program = b"".join(instruction.pack() for instruction in assemble(os.uname().machine, rules))
    site = site_at(open_folder / "home")
    site.argv = [sys.executable, "-c", FORBID_NAMESPACES, program.hex(), *site.argv]
    up = site.up()
    assert up.returncode == 0, up.stdout + up.stderr
    assert json.loads(up.stdout)["sandbox"] is None
    runner = site.services()["runner"]
    assert runner["state"] == "unavailable"
    assert "does not work here" in str(runner["detail"])
    assert "start the runner" in str(runner["detail"])
    assert httpx.get(f"http://127.0.0.1:{site.port}/api/v1/prices/", timeout=10).status_code == 200
    people = site.run("status").stdout
    assert "sandbox none" in people

    refused = site.run("sandbox-test", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["code"] == "no_sandbox"


@only_root
def test_below_a_private_folder_the_database_finds_a_place_outside(
    site_at: Callable[[Path], Site], open_folder: Path
) -> None:
    private = open_folder / "root"
    private.mkdir(mode=0o700)
    site = site_at(private / "checkout" / ".gainshare")
    up = site.up()
    assert up.returncode == 0, up.stdout
    assert (STATE_DIRECTORY / site.home.digest / "postgres" / "PG_VERSION").exists()
    assert site.run("audit").returncode == 0
    gone = site.run("down", "--delete-data", "--json")
    assert gone.returncode == 0, gone.stdout
    assert not site.home.root.exists()
    assert not site.home.outside.exists()
    assert not STATE_DIRECTORY.exists() or any(
        not is_binaries_copy(entry) for entry in STATE_DIRECTORY.iterdir()
    )


OPENED = """
mkdir -p "$1" && mount --bind "$2" "$1" && mount -t tmpfs -o mode=755 tmpfs "$3" && mkdir -p "$2" &&
mount --move "$1" "$2" && shift 3 && exec "$@"
"""


def as_user(name: str, scratch: Path) -> list[str]:
    """A command prefix that becomes this user. An interpreter below a closed folder (root's home) is opened first,
    in a mount namespace of the command's own."""
    user = pwd.getpwnam(name)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    base = Path(sys.base_prefix)
    closed = unreachable_part(base / "bin", user.pw_uid)
    if closed is None:
        return become
    return ["unshare", "--mount", "sh", "-c", OPENED, "sh", str(scratch), str(base), str(closed), *become]


def may_read(user: str, path: Path) -> bool:
    return subprocess.run(["/bin/ls", path], user=user, capture_output=True, check=False).returncode == 0


@only_root
def test_an_ordinary_user_gets_the_whole_site(site_at: Callable[[Path], Site], open_folder: Path) -> None:
    if not (may_read("nobody", PACKAGES) and may_read("nobody", ROOT)):
        pytest.skip("expected: the checkout lies where an ordinary user may not read it")
    user = pwd.getpwnam("nobody")
    own = open_folder / "own"
    own.mkdir(mode=0o700)
    os.chown(own, user.pw_uid, user.pw_gid)
    site = site_at(own / "home")
    site.env |= {"HOME": str(own)}
    site.argv = [*as_user("nobody", open_folder / "scratch"), *site.argv]
    up = site.up()
    assert up.returncode == 0, up.stdout + up.stderr
    services = json.loads(site.run("status", "--json").stdout)["services"]
    for name in ("postgres", "valkey", "web", "control", "beat"):
        assert services[name]["state"] == "ready"
        assert Path(f"/proc/{services[name]['pid']}").stat().st_uid == user.pw_uid
    assert services["runner"]["state"] in {"ready", "unavailable"}
    assert site.run("audit").returncode == 0
    assert site.run("down").returncode == 0
    assert tagged(f"{site.home.digest}.") == []


@only_root
def test_without_a_network_the_model_cannot_be_fetched_and_what_to_do_is_said(
    site_at: Callable[[Path], Site], open_folder: Path
) -> None:
    site = site_at(open_folder / "home")
    for name in [name for name in site.env if name.upper().startswith(("PIP_", "HTTP", "ALL_PROXY"))]:
        del site.env[name]
    alone = ["unshare", "--net"]
    if subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("expected: this root may not make network namespaces")
    site.argv = [*alone, *site.argv]
    text = message(site.up("smollm2-moe"))
    assert "could not be fetched" in text
    assert "--model tiny" in text
    assert site.run("status").returncode == 1


def test_an_unknown_model_is_refused(site_at: Callable[[Path], Site], open_folder: Path) -> None:
    assert "tiny" in message(site_at(open_folder / "home").up("gpt-9"))
