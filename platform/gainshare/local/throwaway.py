"""PostgreSQL for one test session: in a temporary folder, started when first needed, removed at the end.

Durability is off: it survives killed processes, but not a failed machine. The folder of a killed session is
removed by the next one.

`python -m gainshare.local.throwaway COMMAND …` runs a command with such a database and random settings.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gainshare.local.owned_folder import abandoned_folders, make_owned_folder
from gainshare.local.postgres import Cluster, reachable_binaries, server_account
from gainshare.local.reach import reaches

PREFIX = "gainshare-test-"


class ThrowawayPostgres:
    """A throwaway cluster. Its URL is known before it runs; `start` may be called repeatedly."""

    def __init__(self) -> None:
        account = server_account()
        parent = Path(tempfile.gettempdir())
        if len(bytes(parent)) > 60 or (
            account.user is not None and not reaches(parent, account.user, to_enter=True)
        ):
            parent = Path("/tmp")  # noqa: S108 (mkdtemp below makes a private folder in it)
        remove_leftovers(parent)
        self.folder = make_owned_folder(parent, PREFIX)
        self.cluster = Cluster(
            data=self.folder / "data",
            sockets=self.folder / "s",
            password=secrets.token_urlsafe(24),
            binaries=reachable_binaries(account, self.folder / "binaries"),
            is_durable=False,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.cluster.url()

    def start(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.cluster.initialise()
            self._process = self.cluster.start(self.folder / "postgres.log")
            self.cluster.ensure_database()

    def remove(self) -> None:
        if self._process is not None:
            self.cluster.stop(self._process)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove folders of this user's dead test sessions in `parent`."""
    for folder in abandoned_folders(parent, PREFIX):
        _end_server(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


def _end_server(data: Path) -> None:
    Cluster(data=data, sockets=data.parent / "s", password="").end_leftovers()


def main() -> int:
    """Run the given command and return its exit status."""
    postgres = ThrowawayPostgres()
    try:
        postgres.start()
        settings = {
            "DATABASE_URL": postgres.url,
            "GAINSHARE_SECRET_KEY": secrets.token_urlsafe(32),
            "GAINSHARE_HOME": str(postgres.folder),
        }
        return subprocess.run(sys.argv[1:], env=os.environ | settings, check=False).returncode
    finally:
        postgres.remove()


if __name__ == "__main__":
    sys.exit(main())
