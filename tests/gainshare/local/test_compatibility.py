"""Homes of other installations: refused with what to do, and left as they are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from gainshare.local.compatibility import (
    FORMAT,
    Incompatible,
    check_database_files,
    check_format,
    check_migrations,
)
from gainshare.local.errors import LocalModeError
from gainshare.local.management.commands.unknown_migrations import unknown_migrations
from gainshare.local.paths import Home
from gainshare.local.postgres import Cluster, PostgresError, reachable_binaries, server_account
from gainshare.local.services import LocalStack, StackOptions
from gainshare.local.state import SCHEMA, read_state

pytestmark = pytest.mark.slow

OPTIONS = StackOptions(port=8123, model="none", node_port=8124)


@pytest.fixture
def home(open_folder: Path) -> Iterator[Home]:
    home = Home(open_folder / "home")
    yield home
    shutil.rmtree(home.run, ignore_errors=True)


@pytest.fixture
def used(home: Home, open_folder: Path) -> Cluster:
    """A home whose database a server has worked in."""
    cluster = LocalStack.create(home, OPTIONS, "tag").cluster
    cluster.initialise()
    cluster.stop(cluster.start(open_folder / "log"))
    return cluster


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(home: Home) -> str:
    """The message of `gainshare up` before it has changed anything."""
    before = contents(home.root)
    with pytest.raises(Incompatible, match="Nothing was changed") as error:
        LocalStack.create(home, OPTIONS, "tag")
    assert contents(home.root) == before
    assert error.value.code == "incompatible_home"
    return str(error.value)


def test_a_home_is_marked_with_its_format_and_one_without_a_mark_is_taken(home: Home) -> None:
    LocalStack.create(home, OPTIONS, "tag")
    assert (home.root / "format").read_text() == f"{FORMAT}\n"
    (home.root / "format").unlink()  # as in homes from before there was one
    LocalStack.create(home, OPTIONS, "tag")
    check_format(home.root)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (b"2\n", "format 2, and this installation reads formats up to 1"),
        (b"99999999999999999999", "newer"),
        (b"", "no number"),
        (b"one", "'one' and no number"),
        (b"-1", "no number"),
        (b"\xff\xfe", "cannot be read"),
        ("\u0662".encode(), "no number"),
    ],
)
def test_a_home_in_an_unknown_format_is_refused(home: Home, mark: bytes, said: str) -> None:
    home.create_root()
    (home.root / "format").write_bytes(mark)
    assert said in refusal(home)
    assert not home.secrets.exists()


def test_a_database_of_another_postgresql_is_refused(home: Home, used: Cluster) -> None:
    stated = used.data / "PG_VERSION"
    major = stated.read_text().strip()
    stated.write_text("15\n")
    said = refusal(home)
    assert (
        f"made by PostgreSQL 15, and the installed PostgreSQL {major} cannot open it" in said
        and "pg_dump" in said
    )


@pytest.mark.parametrize("part", ["PG_VERSION", "global/pg_control"])
def test_a_database_that_lacks_a_part_is_refused(home: Home, used: Cluster, part: str) -> None:
    (used.data / part).unlink()
    assert f"{part} is missing" in refusal(home)


def test_a_lost_password_of_the_database_is_not_replaced_by_another(home: Home, used: Cluster) -> None:
    (home.secrets / "database-password").unlink()
    assert "database-password is missing" in refusal(home)


def test_a_database_without_the_mark_of_initdb_is_never_initialised_again(
    home: Home, used: Cluster, open_folder: Path
) -> None:
    """A folder that was copied without its mark looks like one of a killed initdb, which is deleted."""
    server = used.start(open_folder / "log")
    used.ensure_database()
    with psycopg.connect(used.url()) as client:
        client.execute("CREATE TABLE kept AS SELECT 17 AS n")
    used.stop(server)
    mark = used.data / "gainshare.complete"
    mark.unlink()
    with pytest.raises(
        PostgresError, match=r"Nothing was changed. To use it, run: touch .*gainshare.complete"
    ):
        used.initialise()
    mark.touch()
    used.initialise()
    server = used.start(open_folder / "log")
    with psycopg.connect(used.url()) as client:
        assert client.execute("SELECT n FROM kept").fetchone() == (17,)
    used.stop(server)


def test_what_a_killed_initdb_left_is_taken_for_nothing(open_folder: Path) -> None:
    data = open_folder / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("1")
    binaries = reachable_binaries(server_account(), open_folder / "binaries")
    check_database_files(data, binaries, password=open_folder / "none")
    check_database_files(open_folder / "absent", binaries, password=open_folder / "none")


@pytest.mark.django_db
def test_migrations_that_this_code_does_not_know_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert unknown_migrations() == []
    call_command("unknown_migrations")
    recorder = MigrationRecorder(connection)
    for app, name in (
        ("bounty", "9999_of_the_future"),
        ("accounts", "9998_too"),
        ("contenttypes", "0000_theirs"),
    ):
        recorder.record_applied(app, name)
    assert unknown_migrations() == ["accounts.9998_too", "bounty.9999_of_the_future"]
    with pytest.raises((SystemExit, CommandError)) as error:
        call_command("unknown_migrations")
    assert error.value.code == 1  # type: ignore[union-attr]
    assert capsys.readouterr().out.split() == ["accounts.9998_too", "bounty.9999_of_the_future"]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"schema": SCHEMA},
        {"schema": SCHEMA, "supervisor": {"pid": 1}, "services": {}},
        {"schema": SCHEMA, "supervisor": {"pid": 1, "started_ticks": 1}, "services": {}, "of_the_future": 1},
        {"schema": "gainshare.local/2"},
    ],
)
def test_the_state_of_another_version_is_no_state(home: Home, document: object) -> None:
    home.create_root()
    home.state_file.write_text(json.dumps(document))
    assert read_state(home) is None


def test_a_database_that_cannot_be_asked_is_not_taken_for_one_without_news(home: Home) -> None:
    env = LocalStack.create(home, OPTIONS, "tag").environments.platform()  # its database does not run
    with pytest.raises(LocalModeError, match=r"migrations could not be read:\n"):
        check_migrations(env, home=home.root)
