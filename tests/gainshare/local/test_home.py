"""The layout of GAINSHARE_HOME: private folders, secrets in 0600 files, bounded logs, the state file."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.evidence.signing import load_key, public_key
from gainshare.local.errors import LocalModeError
from gainshare.local.paths import STATE_DIRECTORY, Home, home_from_environment
from gainshare.local.reach import reaches, unreachable_part
from gainshare.local.secrets import Secrets, read_secret, write_secret
from gainshare.local.stack import delete_data
from gainshare.local.state import (
    AlreadyRunning,
    NotRunning,
    ServiceState,
    StackState,
    boot_id,
    held_home,
    read_state,
    running_state,
    write_state,
)
from gainshare.local.supervision import logs
from gainshare.local.supervision.processes import ProcessId
from tests.needs import only_root

NOBODY = 65534
is_root = os.geteuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(open_folder: Path) -> Iterator[Home]:
    home = Home(open_folder / "home")
    home.create()
    yield home
    shutil.rmtree(home.run, ignore_errors=True)


def test_everything_below_the_home_is_private(home: Home) -> None:
    assert mode(home.root) == (0o711 if is_root else 0o700)
    for folder in (home.logs, home.secrets, home.blobs, home.broker_data, home.runner, home.broker_sockets):
        assert mode(folder) == 0o700
    home.create()  # repeating changes nothing


def test_socket_paths_are_short_wherever_the_home_is(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep/" * 40))
    assert len(bytes(home.postgres_sockets / ".s.PGSQL.5432")) < 107
    assert len(bytes(home.broker_sockets / "valkey.sock")) < 107
    assert Home(tmp_path / "other").run != home.run


def test_a_long_temporary_folder_is_not_used_for_sockets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    assert len(bytes(Home(tmp_path).postgres_sockets)) < 60


def test_a_run_folder_made_by_another_person_is_refused(home: Home) -> None:
    home.broker_sockets.rmdir()
    home.run.rmdir()
    home.run.symlink_to(home.root)
    try:
        with pytest.raises(LocalModeError, match="not a private folder"):
            home.create()
    finally:
        home.run.unlink()


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalModeError, match="GAINSHARE_HOME"):
        Home(tmp_path / "file" / "home").create()


@only_root
def test_as_root_below_a_private_folder_the_database_is_outside_the_home(open_folder: Path) -> None:
    private = open_folder / "root"
    private.mkdir(mode=0o700)
    home = Home(private / "checkout" / ".gainshare")
    home.create()
    try:
        assert home.postgres_data == STATE_DIRECTORY / home.digest / "postgres"
        assert reaches(home.outside, NOBODY, to_enter=True)
        home.postgres_data.mkdir()
        private.chmod(0o711)
        assert home.postgres_data == STATE_DIRECTORY / home.digest / "postgres"  # data once made stay there
    finally:
        home.postgres_data.rmdir()
        home.outside.rmdir()
        shutil.rmtree(home.run)


@only_root
def test_as_root_in_an_open_folder_the_database_is_in_the_home(home: Home) -> None:
    assert home.postgres_data == home.root / "postgres"


def test_home_comes_from_the_environment_or_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path))
    assert home_from_environment().root == tmp_path
    monkeypatch.delenv("GAINSHARE_HOME")
    assert home_from_environment().root == Path(__file__).resolve().parents[3] / ".gainshare"


def test_reach_follows_modes_from_the_top(open_folder: Path) -> None:
    inner = open_folder / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    assert reaches(inner / "file", NOBODY)
    assert unreachable_part(open_folder, NOBODY) == open_folder  # may be entered, not listed
    assert reaches(open_folder, NOBODY, to_enter=True)
    (inner / "file").chmod(0o600)
    assert unreachable_part(inner / "file", NOBODY) == inner / "file"
    (open_folder / "a").chmod(0o700)
    assert unreachable_part(inner / "file", NOBODY) == open_folder / "a"
    assert unreachable_part(open_folder / "missing", NOBODY) == open_folder / "missing"


@only_root
@pytest.mark.parametrize("closed", [None, "a", "a/file"])
def test_reach_agrees_with_the_kernel(open_folder: Path, closed: str | None) -> None:
    (open_folder / "a").mkdir()
    (open_folder / "a" / "file").write_text("x")
    if closed:
        (open_folder / closed).chmod(0o600 if closed.endswith("file") else 0o700)
    seen = subprocess.run(
        ["/bin/cat", open_folder / "a" / "file"], user=NOBODY, capture_output=True, check=False
    )
    assert reaches(open_folder / "a" / "file", NOBODY) == (seen.returncode == 0) == (closed is None)


def test_secrets_are_made_once_random_and_private(home: Home) -> None:
    secrets = Secrets(home.secrets)
    secrets.ensure()
    first = {file.name: file.read_text() for file in home.secrets.iterdir()}
    assert all(mode(file) == 0o600 for file in home.secrets.iterdir())
    assert len(set(first.values())) == len(first) == 7
    assert "admin-key" not in first
    assert "runner-token" not in first
    secrets.ensure()
    assert {file.name: file.read_text() for file in home.secrets.iterdir()} == first
    assert len(public_key(load_key(secrets.runner_key))) == 44


def test_a_secret_is_replaced_as_a_whole_and_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_secret(path, "one")
    path.chmod(0o644)
    write_secret(path, "two\n")
    assert read_secret(path) == "two"
    assert mode(path) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_a_long_log_is_cut_while_its_writer_continues(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * 100)
        writer.flush()
        assert not logs.rotate(log, max_bytes=1000)
        assert logs.rotate(log, max_bytes=100)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "web.log.1").read_bytes() == b"old\n" * 100


def test_log_searches_start_where_the_process_did(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("worker ready.\n")
    offset = log.stat().st_size
    assert not logs.contains_after(log, offset, " ready.")
    with log.open("a") as writer:
        writer.write("worker ready.\n")
    assert logs.contains_after(log, offset, " ready.")
    log.write_text("ready.\n")  # cut since: looked at from the start
    assert logs.contains_after(log, offset, "ready.")
    assert not logs.contains_after(tmp_path / "missing", 0, "x")


def test_tail_gives_whole_lines_from_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    assert logs.tail(log, max_bytes=20).splitlines() == ["line 98", "line 99"]
    assert logs.tail(tmp_path / "missing") == ""


def make_state(home: Home, **changes: object) -> StackState:
    me = ProcessId.of(os.getpid())
    assert me is not None
    fields: dict[str, object] = {
        "url": "http://127.0.0.1:1",
        "model": "tiny",
        "home": str(home.root),
        "run_folder": str(home.run),
        "supervisor": me,
        "boot_id": boot_id(),
        "services": {"web": ServiceState("ready", me.pid, me.started_ticks)},
    }
    return StackState(**(fields | changes))  # type: ignore[arg-type]


def test_state_is_read_back_as_written(home: Home) -> None:
    state = make_state(home)
    write_state(home, state)
    assert read_state(home) == state
    assert running_state(home) == state
    assert state.services["web"].process == state.supervisor


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_id": "another boot"},
        {"supervisor": ProcessId(os.getpid(), 1)},
        {"supervisor": ProcessId(2**22 + 1, 1)},
    ],
)
def test_state_of_a_dead_supervisor_counts_as_not_running(home: Home, changes: dict[str, object]) -> None:
    write_state(home, make_state(home, **changes))
    with pytest.raises(NotRunning, match="gainshare up"):
        running_state(home)


def test_half_written_state_counts_as_none(home: Home) -> None:
    home.state_file.write_text('{"schema": "gains')
    assert read_state(home) is None


def test_a_home_is_held_by_one_at_a_time(home: Home) -> None:
    with held_home(home):
        with pytest.raises(AlreadyRunning), held_home(home):
            pass
    with held_home(home):
        pass


def test_deleting_a_home_leaves_a_folder_alone_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LocalModeError, match="not made by `gainshare up`"):
        delete_data(Home(tmp_path))
    assert (tmp_path / "thesis.tex").exists()


def test_deleting_a_home_removes_it_and_its_run_folder(home: Home) -> None:
    with held_home(home):
        pass
    delete_data(home)
    assert not home.root.exists()
    assert not home.run.exists()


def test_a_home_in_use_is_not_deleted(home: Home) -> None:
    write_state(home, make_state(home))
    with pytest.raises(AlreadyRunning):
        delete_data(home)
    assert home.state_file.exists()
