"""Schemas that are kept: a database that took one is the same as one that was migrated."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler

from gainshare.local import schema_store
from gainshare.local.postgres import wheel_binaries
from gainshare.local.schema_store import SchemaStore, schema_digest, store_of_environment

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
CASTS = re.compile(r"::(character varying|text)(\[\])?|[()]")


@pytest.fixture
def empty() -> Iterator[BaseDatabaseWrapper]:
    """A connection of its own to a new, empty database."""
    yield from _database()


@pytest.fixture
def other() -> Iterator[BaseDatabaseWrapper]:
    yield from _database()


def _database() -> Iterator[BaseDatabaseWrapper]:
    name, settings = f"schema_{uuid4().hex[:12]}", connections.settings["default"]
    with psycopg.connect(_url("postgres"), autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        made = ConnectionHandler({"default": {**settings, "NAME": name}})["default"]
        try:
            yield made
        finally:
            made.close()
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _url(name: str) -> str:
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()


def migrate(database: BaseDatabaseWrapper, folder: Path) -> str:
    """What `manage.py migrate` prints."""
    name = str(database.settings_dict["NAME"])
    environment = {**os.environ, "DATABASE_URL": _url(name), "GAINSHARE_SCHEMAS": str(folder)}
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--noinput"],
        env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return done.stdout


def dump(database: BaseDatabaseWrapper) -> list[str]:
    """The whole database as SQL, without the word that pg_dump draws, and without casts.

    PostgreSQL writes a cast of a list as one of each element when it has read it again.
    """
    argv = [str(wheel_binaries() / "bin" / "pg_dump"), _url(str(database.settings_dict["NAME"]))]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    lines = [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    return [CASTS.sub("", line) for line in lines]


def test_a_fresh_database_takes_the_schema_that_an_earlier_one_was_migrated_to(
    empty: BaseDatabaseWrapper, other: BaseDatabaseWrapper, tmp_path: Path
) -> None:
    folder = tmp_path / "schemas"
    assert "Applying ledger.0001_initial" in migrate(empty, folder)
    [kept] = folder.iterdir()
    assert kept.stem == schema_digest(empty) and folder.stat().st_mode & 0o077 == 0
    assert "No migrations to apply" in migrate(other, folder)
    assert dump(other) == dump(empty)
    assert "No migrations to apply" in migrate(other, folder) and list(folder.iterdir()) == [kept]


def test_what_cannot_be_read_is_removed_and_leaves_nothing(
    empty: BaseDatabaseWrapper, tmp_path: Path
) -> None:
    file = tmp_path / f"{schema_digest(empty)}.sql"
    file.write_text("CREATE TABLE half (id int);\nCREATE TABLE broken (;\n")
    assert not SchemaStore(tmp_path).restore(empty)
    assert not file.exists() and empty.introspection.table_names() == []
    assert not SchemaStore(tmp_path).restore(empty)


def test_a_folder_that_cannot_be_made_ends_nothing(empty: BaseDatabaseWrapper, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    SchemaStore(tmp_path / "file").keep(empty)
    assert (tmp_path / "file").read_bytes() == b""


def test_another_users_folder_is_left_alone(
    empty: BaseDatabaseWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", closed)
    assert not SchemaStore(tmp_path / "schemas").restore(empty)


def test_another_migration_makes_another_schema(
    empty: BaseDatabaseWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> ModuleType:
        module = ModuleType(name)
        module.__file__ = str(tmp_path / "__init__.py")
        return module

    monkeypatch.setattr(schema_store, "import_module", found)
    digests = []
    for change in ("", "a = 1\n", "a = 2\n"):
        (tmp_path / "0001_initial.py").write_text(change)
        digests.append(schema_digest(empty))
    (tmp_path / "0002_more.py").touch()
    digests.append(schema_digest(empty))
    monkeypatch.setattr(schema_store.django, "get_version", lambda: "9.9")
    digests.append(schema_digest(empty))
    assert len(set(digests)) == len(digests)


def test_nothing_is_kept_where_no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAINSHARE_SCHEMAS")
    assert store_of_environment() is None
