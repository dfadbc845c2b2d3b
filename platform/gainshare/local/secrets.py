"""Secrets of a local stack: random, made once, each in a file that only this user may read.

Processes get the *file names* or, if a URL needs a password, the value in their environment; never more than
they need. Only the administrator's password is printed, when `gainshare up` is ready.
"""

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.signing import generate_key, save_key

RANDOM_BYTES = 32


@dataclass(frozen=True)
class Secrets:
    """Secret files in one 0700 folder. `ensure` makes those that do not need the site."""

    folder: Path

    @property
    def django_key(self) -> Path:
        return self.folder / "django-secret-key"

    @property
    def node_token(self) -> Path:
        """Bearer token between the gateway and the model node."""
        return self.folder / "node-token"

    @property
    def database_password(self) -> Path:
        return self.folder / "database-password"

    @property
    def broker_control_password(self) -> Path:
        return self.folder / "broker-control-password"

    @property
    def broker_runner_password(self) -> Path:
        return self.folder / "broker-runner-password"

    @property
    def admin_password(self) -> Path:
        return self.folder / "admin-password"

    @property
    def admin_key(self) -> Path:
        """The administrator's API key; written by `bootstrap_local` once the database is there."""
        return self.folder / "admin-key"

    @property
    def runner_key(self) -> Path:
        """The runner's Ed25519 private key, PEM; it signs evidence."""
        return self.folder / "runner-key.pem"

    @property
    def runner_token(self) -> Path:
        """The runner's token; written once the runner is registered with the site."""
        return self.folder / "runner-token"

    @property
    def host_token(self) -> Path:
        """Token of this machine's node agent; written by `bootstrap_local` where the stack is elastic."""
        return self.folder / "host-token"

    def ensure(self) -> None:
        """Make every missing secret that does not need the site."""
        for path in (
            self.django_key,
            self.node_token,
            self.database_password,
            self.broker_control_password,
            self.broker_runner_password,
        ):
            if not path.exists():
                write_secret(path, secrets.token_urlsafe(RANDOM_BYTES))
        if not self.admin_password.exists():
            write_secret(self.admin_password, secrets.token_urlsafe(12))
        if not self.runner_key.exists():
            save_key(generate_key(), self.runner_key)


def write_secret(path: Path, text: str) -> None:
    """Replace `path` atomically, with mode 0600 from its first byte."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text.rstrip("\n") + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_secret(path: Path) -> str:
    """The content without its final line break."""
    return path.read_text().rstrip("\n")
