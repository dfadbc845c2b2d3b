"""Schemas of migrated databases, kept as SQL: a fresh database takes one at once instead of migrating for 20 seconds.

A schema is named by all that made it: every migration's file, Django's version and the server's. Where GAINSHARE_SCHEMAS
names no folder nothing is kept, as on a site with a database of its own. The folder is as trusted as the code.
"""

import hashlib
import logging
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import django
from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader

from gainshare.local.postgres import wheel_binaries

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "GAINSHARE_SCHEMAS"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class SchemaStore:
    """Schemas in `folder`, which is made when the first one is kept."""

    folder: Path

    def restore(self, connection: BaseDatabaseWrapper) -> bool:
        """Give an empty database the schema of this code's migrations; False if there is none, or none that can be read.

        All or nothing. A file that cannot be read is removed.
        """
        file = self._file(connection)
        try:
            if not file.is_file():
                return False
        except PermissionError:  # another user's folder
            return False
        done = _run(connection, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", str(file))
        if done.returncode != 0:
            logger.warning("the kept schema %s cannot be read, so it is made again: %s", file, _said(done))
            with suppress(OSError):
                file.unlink()
        return done.returncode == 0

    def keep(self, connection: BaseDatabaseWrapper) -> None:
        """Keep the schema of a database that was just migrated from nothing. Where that fails the log says why."""
        file = self._file(connection)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                fresh = Path(scratch) / file.name
                done = _run(connection, "pg_dump", "--no-owner", "--no-privileges", "-f", str(fresh))
                if done.returncode == 0:
                    fresh.replace(file)
                else:
                    logger.warning("the schema was not kept: %s", _said(done))
        except OSError as error:
            logger.warning("the schema was not kept in %s: %s", self.folder, error.strerror)

    def _file(self, connection: BaseDatabaseWrapper) -> Path:
        return self.folder / f"{schema_digest(connection)}.sql"


def store_of_environment() -> SchemaStore | None:
    """The store that GAINSHARE_SCHEMAS names; None without it."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return SchemaStore(Path(folder)) if folder else None


def schema_digest(connection: BaseDatabaseWrapper) -> str:
    """SHA-256 of every migration's name and file, Django's version and the server's."""
    digest = hashlib.sha256(f"{django.get_version()} {connection.get_database_version()}".encode())
    for config in sorted(apps.get_app_configs(), key=lambda config: config.label):
        name, _ = MigrationLoader.migrations_module(config.label)
        try:
            folder = Path(str(import_module(name or "").__file__)).parent
        except (ImportError, ValueError):
            continue  # an app without migrations
        for file in sorted(folder.glob("*.py")):
            content = file.read_bytes()
            digest.update(f"{config.label}/{file.name} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def _run(
    connection: BaseDatabaseWrapper, program: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one of PostgreSQL's programs on the database; the password is in no command line."""
    settings = connection.settings_dict
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "PGHOST": str(settings["HOST"]),
        "PGPORT": str(settings["PORT"] or 5432),
        "PGUSER": str(settings["USER"]),
        "PGPASSWORD": str(settings["PASSWORD"]),
        "PGDATABASE": str(settings["NAME"]),
    }
    argv = [str(wheel_binaries() / "bin" / program), *arguments]
    try:
        return subprocess.run(argv, env=environment, capture_output=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, b"", b"it took too long")


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip()[-500:]
